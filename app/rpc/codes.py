"""The error codes of the cloud (guide chapter 9), and those of the gateway in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """An error code, its HTTP status and its text. ``%s`` is replaced by the parameter's name."""

    status: int
    code: str
    message: str


def _table(*rows: tuple[int, str, str]) -> Mapping[str, ErrorCode]:
    return MappingProxyType({code: ErrorCode(status, code, message) for status, code, message in rows})


_TRY_LATER: Final = "An error occurred while processing your request. Try again later."
_PARAMETERS: Final = "Failed to validate the parameters. The parameters may be missing or invalid."
_RESOURCES: Final = (
    "An error occurred while validating the resource permissions. Please check the account "
    "that created the instance, topic, and GroupId, and check their permission settings."
)

ERRORS: Final = _table(
    (404, "ApiNotSupport", "The specified API is not supported."),
    (400, "ApplyTokenOverflow", "You have applied for tokens too many times. Please try again later."),
    (400, "QueryTokenOverflow", "You have queried tokens too many times. Please try again later."),
    (400, "RevokeTokenOverflow", "You have revoked tokens too many times. Please try again later."),
    (400, "CheckAccountInfoFailed", "An error occurred while checking the account information by the STS token."),
    (
        400,
        "InstancePermissionCheckFailed",
        (
            "An error occurred while validating the permissions of the instance. "
            "Please verify the account that created the instance and its permissions settings."
        ),
    ),
    (500, "InternalError", _TRY_LATER),
    (500, "InternalServerError", _TRY_LATER),
    (
        400,
        "ParameterCheckFailed",
        "An error occurred while validating the parameters. The parameters may be missing or invalid.",
    ),
    (400, "PermissionCheckFailed", _RESOURCES),
    (500, "SystemOverflow", "An error occurred while processing your request. Please try again."),
    (
        400,
        "InvalidParameter.%s",
        "An error occurred while validating the parameter. The parameter may be missing or invalid.",
    ),
    # group IDs
    (500, "CreateGroupIdError", "Failed to create GroupId. Try again later."),
    (500, "DeleteGroupIdError", "Failed to delete GroupId. Try again later."),
    (400, "GroupIdAlreadyExsited", "The specified GroupId already exists."),  # the guide's own spelling
    (
        400,
        "GroupIdAlreadyUsedByOtherUsers",
        "The current GroupId is used by another user. Please change to a different GroupId.",
    ),
    (400, "ParameterFieldCheckFailed", _PARAMETERS),
    (400, "InstanceNotFound", "Failed to find the instance. The instanceId may be invalid."),
    (400, "ResourcePermissionCheckFailed", _RESOURCES),
    # messages
    (500, "SendMessageFailed", "A storage exception occurred while sending the message. Please try again."),
)
"""The codes of the actions in the catalog: chapter 9, and the tables of chapters 10 to 14."""

GATEWAY_ERRORS: Final = _table(
    (400, "Missing%s", "%s is mandatory for this action."),
    (
        400,
        "SignatureDoesNotMatch",
        "Specified signature is not matched with our calculation. server string to sign is:%s",
    ),
    (400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired."),
    (400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted."),
    (400, "SignatureNonceUsed", "Specified signature nonce was used already."),
    (404, "InvalidAccessKeyId.NotFound", "Specified access key is not found."),
    (400, "InvalidAccessKeyId.Inactive", "Specified access key is disabled."),
    (404, "InvalidAction.NotFound", "Specified api is not found, please check your url and method."),
    (400, "InvalidVersion", "Specified parameter Version is not valid."),
    (400, "InvalidParameter.Format", "Specified parameter format is not valid."),
    (400, "InvalidSignatureMethod", "Specified signature method is not valid."),
    (400, "InvalidSignatureVersion", "Specified parameter SignatureVersion is not valid."),
    (403, "UnsupportedHTTPMethod", "This http method not supported."),
    (400, "InvalidProtocol.NeedSsl", "Your request is denied as lack of ssl protect."),
    (400, "Throttling", "Request was denied due to request throttling."),
    (400, "Throttling.User", "Request was denied due to user flow control."),
    (400, "Throttling.Api", "Request was denied due to api flow control."),
    (503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."),
    (
        403,
        "Forbidden.RAM",
        "User not authorized to operate on the specified resource, or this API doesn't support RAM.",
    ),
    (400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired."),
)
"""The gateway's answers to requests that reach no action; the guide does not list them (FACTS 5)."""
