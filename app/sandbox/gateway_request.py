"""A request to the gateway: its parts, decoded and not yet verified (guide chapters 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDictProxy

from app.rpc import signature
from app.sandbox.answers import CallRefused, WireFormat

MAX_BODY_BYTES: Final = 256 * 1024
_MAX_PARAMETERS: Final = 200
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRequest:
    """The parts of an HTTP request. Nothing in it is verified."""

    method: str
    path: str
    query: Mapping[str, str]
    parameters: Mapping[str, str]
    """Query and form merged."""
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def is_acs3(self) -> bool:
        """Whether the signature is a header and not a parameter."""
        return self.headers.get("Authorization", "").startswith(signature.ACS3)

    @property
    def action(self) -> str:
        """The action that it names; empty if none."""
        return self.headers.get("x-acs-action", "") if self.is_acs3 else self.parameters.get("Action", "")

    def answer_format(self) -> WireFormat:
        """Return the format that it asks for, in any case of letters. Raises ``CallRefused``.

        The default is XML: the guide's table says JSON, its prose and the gateway's practice say XML (FACTS 0.6). An
        ACS3 request has no such parameter and gets JSON.
        """
        if self.is_acs3:
            return WireFormat.JSON
        try:
            return WireFormat[self.parameters.get("Format", "XML").upper()]
        except KeyError:
            raise CallRefused("InvalidParameter.Format") from None


async def read_gateway_request(http: web.Request) -> GatewayRequest:
    """Read and decode a request. Raises ``CallRefused``.

    Signatures are computed over decoded values, because callers encode one value in several ways (FACTS 3.2).
    """
    if http.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise CallRefused("ParameterCheckFailed")
    try:
        body = await http.read()
    except web.HTTPRequestEntityTooLarge:
        raise CallRefused("ParameterCheckFailed") from None
    query = _decode_pairs(http.rel_url.raw_query_string)
    form = _decode_pairs(body.decode("ascii", "replace")) if http.content_type == _FORM else []
    return GatewayRequest(
        method=http.method,
        path=http.rel_url.raw_path,
        query=_merge_pairs(query),
        parameters=_merge_pairs(query + form),
        headers=http.headers,
        body=body,
    )


def _decode_pairs(text: str) -> list[tuple[str, str]]:
    try:
        # Blank values are part of the signature: the classic SDK sends SignatureType= (FACTS 4).
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise CallRefused("ParameterCheckFailed") from None


def _merge_pairs(pairs: list[tuple[str, str]]) -> Mapping[str, str]:
    merged: dict[str, str] = {}
    for name, value in pairs:
        if merged.setdefault(name, value) != value:
            # With two values under one name, the verified one and the used one could differ.
            raise CallRefused("ParameterCheckFailed")
    return merged
