"""The cloud's actions and errors as one table (guide chapters 7 to 10); client, sandbox and tests read it.

Adding an action is adding a row here and a handler in the sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

API_VERSION: Final = "2020-04-20"

MIN_TOKEN_LIFE_S: Final = 60
"""ApplyToken refuses an ExpireTime nearer than this (10.1)."""

MAX_TOKEN_LIFE_S: Final = 30 * 24 * 3600
"""A later ExpireTime is accepted and silently counts as this (10.1)."""

MAX_RESOURCES: Final = 100
"""Topics one token may carry (10.1)."""

Kind = Literal["String", "Long", "Boolean"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A request parameter of one action."""

    name: str
    kind: Kind = "String"
    required: bool = True


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an action's answer, beside ``RequestId``."""

    name: str
    kind: Kind = "String"


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """A code of chapter 9 or of the gateway: its HTTP status and its text."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Action:
    """One action: how it is called, what it answers, which codes its own table lists."""

    name: str
    qps: int
    """Calls a second for the whole account. 100 for ApplyToken is today's figure; the guide still says 500."""
    parameters: tuple[Parameter, ...]
    answer: tuple[Field, ...]
    errors: tuple[str, ...]
    methods: tuple[str, ...] = ("GET", "POST")
    """The guide says POST and shows GET; the API's own description allows both for reads. Either is served."""


def _errors(*rows: tuple[int, str, str]) -> Mapping[str, ErrorCode]:
    return MappingProxyType({code: ErrorCode(status, code, message) for status, code, message in rows})


ERRORS: Final = _errors(
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
    (500, "InternalError", "An error occurred while processing your request. Try again later."),
    (
        400,
        "ParameterCheckFailed",
        "An error occurred while validating the parameters. The parameters may be missing or invalid.",
    ),
    (
        400,
        "PermissionCheckFailed",
        (
            "An error occurred while validating the resource permissions. Please check the account "
            "that created the instance, topic, and GroupId, and check their permission settings."
        ),
    ),
    (500, "SystemOverflow", "An error occurred while processing your request. Please try again."),
    (
        400,
        "InvalidParameter.%s",
        "An error occurred while validating the parameter. The parameter may be missing or invalid.",
    ),
)
"""The token errors of chapter 9. ``%s`` is the parameter's name."""

GATEWAY_ERRORS: Final = _errors(
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
    (404, "InvalidAction.NotFound", "Specified api is not found, please check your url and method."),
    (400, "InvalidVersion", "Specified parameter Version is not valid."),
    (400, "InvalidParameter.Format", "Specified parameter format is not valid."),
    (400, "InvalidSignatureMethod", "Specified signature method is not valid."),
    (400, "InvalidSignatureVersion", "Specified parameter SignatureVersion is not valid."),
    (403, "UnsupportedHTTPMethod", "This http method not supported."),
    (400, "Throttling", "Request was denied due to request throttling."),
    (400, "Throttling.User", "Request was denied due to user flow control."),
    (400, "Throttling.Api", "Request was denied due to api flow control."),
    (503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."),
)
"""What the gateway in front of the API says, before any action sees the request; the guide leaves it out."""

_COMMON_ERRORS: Final = (
    "ApiNotSupport",
    "CheckAccountInfoFailed",
    "InstancePermissionCheckFailed",
    "InternalError",
    "ParameterCheckFailed",
    "PermissionCheckFailed",
    "SystemOverflow",
    "InvalidParameter.%s",
)

_REGION: Final = Parameter("RegionId", required=False)  # mandatory in the guide, gone from today's API

ACTIONS: Final[Mapping[str, Action]] = MappingProxyType(
    {
        action.name: action
        for action in (
            Action(
                "ApplyToken",
                qps=100,
                parameters=(
                    Parameter("Actions"),
                    Parameter("ExpireTime", "Long"),
                    Parameter("InstanceId"),
                    _REGION,
                    Parameter("Resources"),
                ),
                answer=(Field("Token"),),
                errors=("ApplyTokenOverflow", *_COMMON_ERRORS),
            ),
            Action(
                "QueryToken",
                qps=100,
                parameters=(Parameter("InstanceId"), _REGION, Parameter("Token")),
                answer=(Field("TokenStatus", "Boolean"),),
                errors=("QueryTokenOverflow", *_COMMON_ERRORS),
            ),
            Action(
                "RevokeToken",
                qps=5,
                parameters=(Parameter("InstanceId"), _REGION, Parameter("Token")),
                answer=(),
                errors=("RevokeTokenOverflow", *_COMMON_ERRORS),
            ),
        )
    }
)

EGRESS_QPS: Final = 300
"""Calls a second from one source IP over all actions; beyond it the cloud blocks the IP (chapter 8)."""
