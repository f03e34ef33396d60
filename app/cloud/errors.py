"""What can go wrong with a call to the cloud, classified by the answer's ``Code`` and never by its HTTP status.

The cloud answers throttling with 400 as often as with 429, and spells a code one way in the guide and another in its
live tables (FACTS 0.3), so codes are compared without case.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from app.cloud.error_hints import error_hint, longest_prefix
from app.model.text import Text, _


class ErrorKind(StrEnum):
    """What the caller can do about an error."""

    THROTTLED = "throttled"
    """Call again later, and less often."""
    TRANSIENT = "transient"
    """Call again: a fault of the cloud."""
    UNREACHABLE = "unreachable"
    """Call again: no answer came."""
    PERMISSION = "permission"
    """The account may not do this with that instance or topic."""
    PARAMETER = "parameter"
    """A parameter is missing or wrong."""
    ACCOUNT = "account"
    """The access key is wrong, disabled or expired."""
    PERMANENT = "permanent"
    """Another call changes nothing."""


class Treatment(NamedTuple):
    """What is done about an error of one kind.

    ``sentence`` is what a device may know. ``back_off_s`` is the longest pause before the second attempt; 0: there
    is none. ``renew_credentials`` says whether the access key may be the cause.
    """

    sentence: Text
    back_off_s: float = 0.0
    renew_credentials: bool = False


TREATMENTS: Final[Mapping[str, Treatment]] = {
    # The cloud's limits are for a second; where it says when to come back, that counts.
    ErrorKind.THROTTLED: Treatment(_("the cloud asks for fewer calls: try again later"), back_off_s=1.0),
    ErrorKind.TRANSIENT: Treatment(_("the cloud failed to serve the call: try again"), back_off_s=0.2),
    ErrorKind.UNREACHABLE: Treatment(_("the cloud could not be reached, or did not answer: try again"), back_off_s=0.2),
    ErrorKind.PERMISSION: Treatment(
        _(
            "the cloud does not let this server's account do this: "
            "probably a permission, the parent topic or the group ID is missing there"
        )
    ),
    ErrorKind.PARAMETER: Treatment(_("the cloud does not accept what was asked for")),
    ErrorKind.ACCOUNT: Treatment(
        _("the cloud does not accept this server's access key: its operator must correct it"), renew_credentials=True
    ),
    ErrorKind.PERMANENT: Treatment(_("the cloud refuses the call: probably this server's settings are wrong")),
}

RETRIED: Final = frozenset(kind for kind in ErrorKind if TREATMENTS[kind].back_off_s)
"""Errors that may pass."""

_KINDS: Final[Mapping[str, ErrorKind]] = {
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
    # the gateway in front (FACTS 5)
    "throttling": ErrorKind.THROTTLED,
    "serviceunavailable": ErrorKind.TRANSIENT,
    "signaturenonceused": ErrorKind.TRANSIENT,  # each attempt has another
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
"""By the beginning of the code in lower case; the longest that fits decides (``InvalidParameter.Token``)."""

_APPLICATION_FAILED: Final = _("the application for one failed: try again")


def classify(code: str) -> ErrorKind:
    """Return the kind of an error ``Code``, whatever its case; an unknown one is permanent."""
    return longest_prefix(_KINDS, code) or ErrorKind.PERMANENT


def sentence(kind: str) -> Text:
    """Return what a device may know of an error of this ``ErrorKind``; for any other text, that something failed."""
    treatment = TREATMENTS.get(kind)
    return treatment.sentence if treatment else _APPLICATION_FAILED


class CloudError(Exception):
    """A call to the cloud failed. No part of it holds a token or a secret.

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
    def sentence(self) -> Text:
        """What a device may know: what failed, and nothing of the account."""
        return TREATMENTS[self.kind].sentence

    @property
    def error_hint(self) -> str:
        """What operators see beside the cloud's own words: the probable cause and the cure, or nothing."""
        return error_hint(self.code)
