"""What can go wrong with a call to the cloud, classified by the answer's ``Code`` and never by its HTTP status.

The cloud answers throttling with 400 as often as with 429, and spells a code one way in the guide and another in its
live tables (FACTS 0.3), so codes are compared without case.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from app.cloud.causes import longest_beginning, probable_cause


class Kind(StrEnum):
    """What the caller can do about an error."""

    THROTTLED = "throttled"
    """Ask again later, and slower."""
    TRANSIENT = "transient"
    """Ask again: a fault of the cloud's own."""
    UNREACHABLE = "unreachable"
    """Ask again: no answer came."""
    PERMISSION = "permission"
    """The account may not do this with that instance or topic."""
    PARAMETER = "parameter"
    """A parameter is missing or wrong."""
    ACCOUNT = "account"
    """The access key is wrong, disabled or expired."""
    PERMANENT = "permanent"
    """Asking again changes nothing."""


RETRIED: Final = frozenset({Kind.THROTTLED, Kind.TRANSIENT, Kind.UNREACHABLE})

_KINDS: Final = {
    # guide chapter 9
    "applytokenoverflow": Kind.THROTTLED,
    "querytokenoverflow": Kind.THROTTLED,
    "revoketokenoverflow": Kind.THROTTLED,
    "systemoverflow": Kind.THROTTLED,
    "internalerror": Kind.TRANSIENT,
    "internalservererror": Kind.TRANSIENT,
    "permissioncheckfailed": Kind.PERMISSION,
    "instancepermissioncheckfailed": Kind.PERMISSION,
    "parametercheckfailed": Kind.PARAMETER,
    "checkaccountinfofailed": Kind.ACCOUNT,
    "apinotsupport": Kind.PERMANENT,
    "creategroupiderror": Kind.TRANSIENT,
    "deletegroupiderror": Kind.TRANSIENT,
    "sendmessagefailed": Kind.TRANSIENT,
    "resourcepermissioncheckfailed": Kind.PERMISSION,
    "instancenotfound": Kind.PARAMETER,
    "parameterfieldcheckfailed": Kind.PARAMETER,
    "groupidalready": Kind.PARAMETER,
    "createmqtt": Kind.PARAMETER,
    "mqtt": Kind.PARAMETER,
    # the gateway in front (FACTS 5)
    "throttling": Kind.THROTTLED,
    "serviceunavailable": Kind.TRANSIENT,
    "signaturenonceused": Kind.TRANSIENT,  # each attempt draws another
    "forbidden": Kind.PERMISSION,
    "missing": Kind.PARAMETER,
    "missingsecuritytoken": Kind.ACCOUNT,
    "invalid": Kind.PARAMETER,
    "invalidaccesskeyid": Kind.ACCOUNT,
    "invalidsecuritytoken": Kind.ACCOUNT,
    "signaturedoesnotmatch": Kind.ACCOUNT,
    "incompletesignature": Kind.ACCOUNT,
    "invalidtimestamp": Kind.PERMANENT,
    "invalidaction": Kind.PERMANENT,
    "invalidapi": Kind.PERMANENT,
    "invalidversion": Kind.PERMANENT,
    "invalidsignature": Kind.PERMANENT,
    "invalidprotocol": Kind.PERMANENT,
    "unsupportedhttpmethod": Kind.PERMANENT,
}
"""How codes begin, in lower case; the longest beginning that fits decides (``InvalidParameter.Token``)."""

_SENTENCES: Final[Mapping[str, str]] = {
    Kind.THROTTLED: "the cloud asks for fewer calls: try again later",
    Kind.TRANSIENT: "the cloud failed to serve the call: try again",
    Kind.UNREACHABLE: "the cloud could not be asked, or did not answer: try again",
    Kind.PERMISSION: "the cloud does not let this server's account do this: "
    "probably a permission, the parent topic or the group ID is missing there",
    Kind.PARAMETER: "the cloud does not accept what was asked for",
    Kind.ACCOUNT: "the cloud does not accept this server's access key: its operator must set it right",
    Kind.PERMANENT: "the cloud refuses the call: probably this server's set-up is wrong",
}


def classify(code: str) -> Kind:
    """Return the kind of an error ``Code``, whatever its case; one that nobody has heard of is permanent."""
    return longest_beginning(_KINDS, code) or Kind.PERMANENT


def sentence(kind: str) -> str:
    """Return what a device may be told of an error of this ``Kind``; of any other text, that something failed."""
    return _SENTENCES.get(kind, "the application for one failed: try again")


class CloudError(Exception):
    """A call to the cloud failed. Neither a token nor a secret is in any part of it.

    ``code``, ``message`` and ``request_id`` are the cloud's own, or say why there are none. ``status`` is the HTTP
    status, 0 without an answer. ``retry_after_s`` is what the cloud asked for. ``uncertain`` means that the call may
    have taken effect all the same.
    """

    def __init__(
        self,
        kind: Kind,
        code: str,
        message: str = "",
        *,
        request_id: str = "",
        status: int = 0,
        retry_after_s: float | None = None,
        uncertain: bool = False,
    ) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.kind = kind
        self.code = code
        self.message = message
        self.request_id = request_id
        self.status = status
        self.retry_after_s = retry_after_s
        self.uncertain = uncertain

    @property
    def sentence(self) -> str:
        """What a device may be told: what failed, and nothing of the account."""
        return sentence(self.kind.value)

    @property
    def probable_cause(self) -> str:
        """What the operator is told beside the cloud's own words: the probable cause and the cure, or nothing."""
        return probable_cause(self.code)
