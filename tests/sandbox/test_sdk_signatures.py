"""What the SDKs sign the sandbox verifies, and what is signed here is what the SDKs would sign, whatever is signed."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

from alibabacloud_tea_openapi.models import OpenApiRequest, Params
from alibabacloud_tea_openapi.utils import Utils
from aliyunsdkcore.auth.composer.rpc_signature_composer import get_signed_url
from aliyunsdkcore.request import CommonRequest
from darabonba.runtime import RuntimeOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.secrets import AccessKeySecret
from app.rpc import signature
from app.rpc.catalog import API_VERSION
from app.sandbox.server import Sandbox
from tests.sandbox.caller import INSTANCE
from tests.sandbox.sdks import FORGIVING, classic, newer

pytestmark = FORGIVING

VALUES = st.text(max_size=20)
PARAMETERS = st.dictionaries(st.text(min_size=1, max_size=10).map("x{}".format), VALUES, max_size=5)
PLAIN = st.dictionaries(st.from_regex(r"x[A-Za-z0-9_.~-]{1,10}", fullmatch=True), VALUES, max_size=5)
"""ACS3 of the newer SDK does not encode names, and no API has others than these."""

QUERY = {"InstanceId": INSTANCE, "Token": "none"}
SECRET = "secret-one"


def send_classic(sandbox: Sandbox, parameters: dict[str, str]) -> object:
    """Call QueryToken with additional parameters and return its ``TokenStatus``."""
    request = CommonRequest(domain=f"127.0.0.1:{sandbox.port}", version=API_VERSION, action_name="QueryToken")
    request.set_method("POST")
    for name, value in {**parameters, **QUERY}.items():
        request.add_query_param(name, value)
    return json.loads(classic().do_action_with_exception(request))["TokenStatus"]


def send_newer(sandbox: Sandbox, parameters: dict[str, str], **options: str) -> object:
    """Call QueryToken with additional parameters and return its ``TokenStatus``."""
    api = Params(
        action="QueryToken",
        version=API_VERSION,
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    reply = newer(sandbox, **options).call_api(api, OpenApiRequest(query={**parameters, **QUERY}), RuntimeOptions())
    return reply["body"]["TokenStatus"]


@given(parameters=PARAMETERS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_sandbox_verifies_what_the_sdks_sign(sandbox: Sandbox, parameters: dict[str, str]) -> None:
    """Whatever is called, with whatever value, either SDK's HMAC-SHA1 signature is accepted."""
    assert await asyncio.to_thread(send_classic, sandbox, parameters) is False
    assert await asyncio.to_thread(send_newer, sandbox, parameters, signature_algorithm="v2") is False


@given(parameters=PLAIN)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_sandbox_verifies_acs3(sandbox: Sandbox, parameters: dict[str, str]) -> None:
    """And so is ACS3, whatever the values."""
    assert await asyncio.to_thread(send_newer, sandbox, parameters) is False


@given(st.sampled_from(["GET", "POST"]), PARAMETERS, st.text(st.characters(codec="ascii"), max_size=30))
@settings(max_examples=50)
def test_rpc_signatures_are_the_sdks_own(method: str, parameters: dict[str, str], secret: str) -> None:
    """The string to sign is the classic SDK's, and the signature is that of both."""
    url, string_to_sign = get_signed_url(dict(parameters), "ak", secret, "JSON", method, {})
    signed = {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}
    ours = signature.rpc_signature(AccessKeySecret(secret), signature.rpc_string_to_sign(method, signed))
    assert signature.rpc_string_to_sign(method, signed) == string_to_sign
    assert ours == signed.pop("Signature")
    assert ours == Utils.get_rpcsignature(signed, method, secret)


@given(PLAIN, st.text(st.characters(codec="ascii"), max_size=30), st.binary(max_size=20))
@settings(max_examples=50)
def test_acs3_signatures_are_the_sdk_s_own(query: dict[str, str], secret: str, payload: bytes) -> None:
    """Headers that are signed, query and body give the newer SDK's own Authorization."""
    headers = {"host": "127.0.0.1", "x-acs-action": "QueryToken", "x-acs-date": "2026-11-24T00:00:00Z"}
    request = SimpleNamespace(method="POST", pathname="/", query=query, headers=headers)
    theirs = Utils.get_authorization(request, signature.ACS3, payload.hex(), "ak", secret)
    text = signature.acs3_string_to_sign("POST", "/", query, headers, sorted(headers), payload.hex())
    ours = signature.acs3_signature(AccessKeySecret(secret), text)
    assert theirs == f"{signature.ACS3} Credential=ak,SignedHeaders=host;x-acs-action;x-acs-date,Signature={ours}"
