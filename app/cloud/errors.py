"""What can go wrong with a call to the cloud, classified by the answer's ``Code`` and never by its HTTP status.

The cloud answers throttling with 400 as often as with 429, and spells a code one way in the guide and another in its
live tables (FACTS 0.3), so codes are compared without case.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from app.cloud.error_hints import error_hint, longest_beginning


class ErrorKind(StrEnum):
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


RETRIED: Final = frozenset({ErrorKind.THROTTLED, ErrorKind.TRANSIENT, ErrorKind.UNREACHABLE})

_KINDS: Final = {
    # guide chapter 9
    "applytokenoverflow": ErrorKind.THROTTLED,
    "querytokenoverflow": ErrorKind.THROTTLED,
    "revoketokenoverflow": ErrorKind.THROTTLED,
    "systemoverflow": ErrorKind.THROTTLED,
    "internalerror": ErrorKind.TRANSIENT,
    "internalservererror": ErrorKind.TRANSIENT,
    "permissioncheckfailed": ErrorKind.PERMISSION,
    "instancepermissioncheckfailed": ErrorKind.PERMISSION,
    "parametercheckfailed": ErrorKind.PARAMETER,
    "checkaccountinfofailed": ErrorKind.ACCOUNT,
    "apinotsupport": ErrorKind.PERMANENT,
    "creategroupiderror": ErrorKind.TRANSIENT,
    "deletegroupiderror": ErrorKind.TRANSIENT,
    "sendmessagefailed": ErrorKind.TRANSIENT,
    "resourcepermissioncheckfailed": ErrorKind.PERMISSION,
    "instancenotfound": ErrorKind.PARAMETER,
    "parameterfieldcheckfailed": ErrorKind.PARAMETER,
    "groupidalready": ErrorKind.PARAMETER,
    "createmqtt": ErrorKind.PARAMETER,
    "mqtt": ErrorKind.PARAMETER,
    # the gateway in front (FACTS 5)
    "throttling": ErrorKind.THROTTLED,
    "serviceunavailable": ErrorKind.TRANSIENT,
    "signaturenonceused": ErrorKind.TRANSIENT,  # each attempt draws another
    "forbidden": ErrorKind.PERMISSION,
    "missing": ErrorKind.PARAMETER,
    "missingsecuritytoken": ErrorKind.ACCOUNT,
    "invalid": ErrorKind.PARAMETER,
    "invalidaccesskeyid": ErrorKind.ACCOUNT,
    "invalidsecuritytoken": ErrorKind.ACCOUNT,
    "signaturedoesnotmatch": ErrorKind.ACCOUNT,
    "incompletesignature": ErrorKind.ACCOUNT,
    "invalidtimestamp": ErrorKind.PERMANENT,
    "invalidaction": ErrorKind.PERMANENT,
    "invalidapi": ErrorKind.PERMANENT,
    "invalidversion": ErrorKind.PERMANENT,
    "invalidsignature": ErrorKind.PERMANENT,
    "invalidprotocol": ErrorKind.PERMANENT,
    "unsupportedhttpmethod": ErrorKind.PERMANENT,
}
"""How codes begin, in lower case; the longest beginning that fits decides (``InvalidParameter.Token``)."""

_SENTENCES: Final[Mapping[str, str]] = {
    ErrorKind.THROTTLED: "the cloud asks for fewer calls: try again later",
    ErrorKind.TRANSIENT: "the cloud failed to serve the call: try again",
    ErrorKind.UNREACHABLE: "the cloud could not be asked, or did not answer: try again",
    ErrorKind.PERMISSION: "the cloud does not let this server's account do this: "
    "probably a permission, the parent topic or the group ID is missing there",
    ErrorKind.PARAMETER: "the cloud does not accept what was asked for",
    ErrorKind.ACCOUNT: "the cloud does not accept this server's access key: its operator must set it right",
    ErrorKind.PERMANENT: "the cloud refuses the call: probably this server's set-up is wrong",
}


def classify(code: str) -> ErrorKind:
    """Return the kind of an error ``Code``, whatever its case; one that nobody has heard of is permanent."""
    return longest_beginning(_KINDS, code) or ErrorKind.PERMANENT


def sentence(kind: str) -> str:
    """Return what a device may be told of an error of this ``ErrorKind``; of any other text, that something failed."""
    return _SENTENCES.get(kind, "the application for one failed: try again")


class CloudError(Exception):
    """A call to the cloud failed. Neither a token nor a secret is in any part of it.

    ``code``, ``message`` and ``request_id`` are the cloud's own, or say why there are none. ``status`` is the HTTP
    status, 0 without an answer. ``retry_after_s`` is what the cloud asked for. ``uncertain`` means that the call may
    have taken effect all the same.
    """

    def __init__(
        self,
        kind: ErrorKind,
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
    def error_hint(self) -> str:
        """What the operator is told beside the cloud's own words: the probable cause and the cure, or nothing."""
        return error_hint(self.code)
