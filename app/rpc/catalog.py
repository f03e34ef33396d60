"""The cloud's actions as one table (guide chapters 4, 6, 8 and 10 to 14).

Client, sandbox, command line and tests read it. To add an action, add a row here and a handler in the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from app.model.devices import DEVICE_ID, GROUP_ID, MAX_CLIENT_ID_CHARS
from app.model.grants import MAX_FILTERS
from app.model.lifetimes import CLOUD_MIN_LIFETIME_S, MAX_LIFETIME_S
from app.model.text import Text, _
from app.model.topics import MAX_TOPIC_CHARS

API_VERSION: Final = "2020-04-20"

MAX_RESOURCES: Final = MAX_FILTERS
"""Most topic filters of one token (10.1)."""

MAX_BATCH: Final = 10
"""Most client IDs of one BatchQuerySessionByClientIds (13.2)."""

EGRESS_QPS: Final = 300
"""Calls per second from one source IP over all actions; above it the cloud blocks the IP (chapter 8)."""

SECRETS: Final = frozenset({"Token", "DeviceAccessKeySecret", "SecurityToken", "Signature"})
"""Parameters and fields with a secret value: shown only on demand, and never stored or logged."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a parameter's value must be, as a pattern and in words."""

    says: Text
    pattern: re.Pattern[str]

    def admits(self, value: str) -> bool:
        """Return whether ``value`` follows the rule."""
        return self.pattern.fullmatch(value) is not None


def _rule(says: Text, pattern: str) -> Rule:
    return Rule(says, re.compile(pattern, re.ASCII | re.DOTALL))


ANY: Final = _rule(_("any text"), ".+")
_PERMISSIONS: Final = _rule(_("R, W or R,W"), "R|W|R,W")
_INSTANT: Final = _rule(
    _(
        "Unix time in milliseconds, %(min)s s to %(max)s days from now",
        min=CLOUD_MIN_LIFETIME_S,
        max=MAX_LIFETIME_S // (24 * 3600),
    ),
    r"\d{1,18}",
)
_FILTERS: Final = _rule(
    _("topic filters in dictionary order, comma separated, at most %(most)s", most=MAX_RESOURCES), "[!-~]+"
)
_TOPIC: Final = _rule(
    _("a topic without wildcards, at most %(most)s characters", most=MAX_TOPIC_CHARS),
    rf"(?=.{{1,{MAX_TOPIC_CHARS}}}\Z)[A-Za-z0-9_-]+(/[^+#\x00]*)?",
)
_GROUP_ID: Final = _rule(_("GID_ or GID- and then characters of A-Z a-z 0-9 _ -, 7 to 64 characters in all"), GROUP_ID)
_CLIENT_ID: Final = _rule(
    _("GID_group@@@device, at most %(most)s characters", most=MAX_CLIENT_ID_CHARS),
    rf"(?=.{{1,{MAX_CLIENT_ID_CHARS}}}\Z){GROUP_ID}@@@{DEVICE_ID}",
)
_ANY_CLIENT_ID: Final = _rule(
    _("an MQTT client ID, at most %(most)s characters", most=MAX_CLIENT_ID_CHARS), f".{{1,{MAX_CLIENT_ID_CHARS}}}"
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A request parameter of one action. A ``RepeatList`` is sent as ``NAME.1``, ``NAME.2`` and so on, at most ten."""

    name: str
    kind: Literal["String", "Long", "RepeatList"] = "String"
    rule: Rule = ANY
    required: bool = True

    def values(self, given: Mapping[str, str]) -> list[str]:
        """Return the values that ``given`` has for this parameter; empty ones count as missing, as at the gateway."""
        if self.kind != "RepeatList":
            return [given[self.name]] if given.get(self.name) else []
        numbered = re.compile(rf"{re.escape(self.name)}\.([1-9][0-9]{{0,3}})", re.ASCII)
        found = {int(match[1]): value for name, value in given.items() if value and (match := numbered.fullmatch(name))}
        return [found[number] for number in sorted(found)]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an answer. A ``Struct`` has ``fields``; an ``Array`` is of structs with them."""

    name: str
    kind: Literal["String", "Long", "Boolean", "Struct", "Array"] = "String"
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Permission:
    """A RAM action and the resource it is needed on (chapter 6).

    ``resource`` is what follows ``acs:mq:REGION:ACCOUNT``; names in braces are the call's parameters, ``{Topic}``
    stands for each parent topic. Where a row says "inferred", the guide's table does not have it.
    """

    action: str
    resource: str


@dataclass(frozen=True, slots=True)
class Action:
    """One action: its parameters, answer, permissions and error codes."""

    name: str
    chapter: str
    qps: int
    """Calls per second for the whole account, on today's instances (FACTS 0.1)."""
    parameters: tuple[Parameter, ...]
    answer: tuple[Field, ...]
    """In the order of the guide's samples."""
    permissions: tuple[Permission, ...]
    errors: tuple[str, ...]
    """The codes of its own table, in the guide's order."""
    methods: tuple[Literal["GET", "POST"], ...] = ("POST",)
    """As in the API's own description (FACTS 3.1). The gateway serves both: the guide signs GET as well."""
    changes: bool = True
    """Whether it changes something: people confirm before they call it by hand."""

    @property
    def malformed(self) -> str:
        """The code for a parameter that breaks its rule."""
        return self._own("InvalidParameter.%s", "ParameterFieldCheckFailed")

    @property
    def wrong_combination(self) -> str:
        """The code for parameters that are each valid, but not together."""
        return self._own("ParameterCheckFailed", "ParameterFieldCheckFailed")

    @property
    def unknown_instance(self) -> str:
        """The code for an instance that does not exist."""
        return self._own("InstanceNotFound", "InstancePermissionCheckFailed")

    @property
    def failure(self) -> str:
        """The code for an internal failure."""
        return self._own("InternalError", "InternalServerError")

    @property
    def overflow(self) -> str:
        """The code for more calls than ``qps``: the gateway's where the action's table has none."""
        codes = ("RevokeTokenOverflow", "QueryTokenOverflow", "ApplyTokenOverflow", "SystemOverflow")
        return next((code for code in codes if code in self.errors), "Throttling.Api")

    def _own(self, *codes: str) -> str:
        return next(code for code in codes if code in self.errors)


_INSTANCE: Final = Parameter("InstanceId")
_REGION: Final = Parameter("RegionId", required=False)  # mandatory in the guide, gone from today's API (FACTS 0.2)
_TOKEN: Final = Parameter("Token")
_GROUP: Final = Parameter("GroupId", rule=_GROUP_ID)
_DEVICE: Final = Parameter("ClientId", rule=_CLIENT_ID)

_REQUEST_ID: Final = Field("RequestId")
_CREDENTIAL: Final = Field(
    "DeviceCredential",
    "Struct",
    (
        Field("InstanceId"),
        Field("DeviceAccessKeySecret"),
        Field("CreateTime", "Long"),
        Field("UpdateTime", "Long"),
        Field("DeviceAccessKeyId"),
        Field("ClientId"),
    ),
)

_ON_INSTANCE: Final = ":instance/{InstanceId}"
_ON_GROUP: Final = ":groupId/{InstanceId}/{GroupId}"
_ACCESS: Final = "mq:MqttInstanceAccess"


def _needs(action: str, resource: str) -> tuple[Permission, ...]:
    # In chapter 6 the row of QueryToken and RevokeToken has only the account as resource, for both permissions.
    access = Permission(_ACCESS, resource if not resource else _ON_INSTANCE)
    return access, Permission(f"mq:{action}", resource)


_TOKEN_ERRORS: Final = (
    "ApiNotSupport",
    "CheckAccountInfoFailed",
    "InstancePermissionCheckFailed",
    "InternalError",
    "ParameterCheckFailed",
    "PermissionCheckFailed",
    "SystemOverflow",
    "InvalidParameter.%s",
)
_CREDENTIAL_ERRORS: Final = (
    "ApiNotSupport",
    "ApplyTokenOverflow",
    "CheckAccountInfoFailed",
    "InstancePermissionCheckFailed",
    "InternalServerError",
    "ParameterCheckFailed",
    "PermissionCheckFailed",
    "SystemOverflow",
    "InvalidParameter.%s",
)


def _credential_action(name: str, chapter: str, answer: tuple[Field, ...], *, changes: bool = True) -> Action:
    """One of the four actions of chapter 14; their 500 calls a second are not in the guide (FACTS 1)."""
    return Action(
        name,
        chapter,
        500,
        (_DEVICE, _INSTANCE, _REGION),
        answer,
        _needs(name, _ON_INSTANCE),  # inferred
        _CREDENTIAL_ERRORS,
        changes=changes,
    )


_ROWS: Final = (
    Action(
        "ApplyToken",
        "10.1",
        100,  # the guide still says 500
        (
            Parameter("Actions", rule=_PERMISSIONS),
            Parameter("ExpireTime", "Long", _INSTANT),
            _INSTANCE,
            _REGION,
            Parameter("Resources", rule=_FILTERS),
        ),
        (_REQUEST_ID, Field("Token")),
        _needs("ApplyToken", ":topic/{InstanceId}/{Topic}"),
        (_TOKEN_ERRORS[0], "ApplyTokenOverflow", *_TOKEN_ERRORS[1:]),
    ),
    Action(
        "QueryToken",
        "10.2",
        100,
        (_INSTANCE, _REGION, _TOKEN),
        (_REQUEST_ID, Field("TokenStatus", "Boolean")),
        _needs("QueryToken", ""),
        (
            "ApiNotSupport",
            "CheckAccountInfoFailed",
            "InstancePermissionCheckFailed",
            "InternalServerError",
            "ParameterCheckFailed",
            "PermissionCheckFailed",
            "QueryTokenOverflow",
            "SystemOverflow",
            "InvalidParameter.%s",
        ),
        methods=("GET", "POST"),
        changes=False,
    ),
    Action(
        "RevokeToken",
        "10.3",
        5,
        (_INSTANCE, _REGION, _TOKEN),
        (_REQUEST_ID,),
        _needs("RevokeToken", ""),
        (*_TOKEN_ERRORS[:-2], "RevokeTokenOverflow", *_TOKEN_ERRORS[-2:]),
    ),
    Action(
        "CreateGroupId",
        "11.1",
        10,
        (_GROUP, _INSTANCE, _REGION),
        (_REQUEST_ID,),
        _needs("CreateGroupId", _ON_GROUP),
        (
            "CreateGroupIdError",
            "GroupIdAlreadyExsited",
            "GroupIdAlreadyUsedByOtherUsers",
            "InternalError",
            "ParameterFieldCheckFailed",
            "InstancePermissionCheckFailed",
            "InstanceNotFound",
            "PermissionCheckFailed",
        ),
    ),
    Action(
        "ListGroupId",
        "11.2",
        10,
        (_INSTANCE,),
        (
            _REQUEST_ID,
            Field(
                "Data",
                "Array",
                (
                    Field("InstanceId"),
                    Field("CreateTime", "Long"),
                    Field("UpdateTime", "Long"),
                    Field("IndependentNaming", "Boolean"),
                    Field("GroupId"),
                ),
            ),
        ),
        _needs("ListGroupId", ":groupId/{InstanceId}/*"),
        (
            "ParameterFieldCheckFailed",
            "InternalServerError",
            "InstancePermissionCheckFailed",
            "InstanceNotFound",
            "PermissionCheckFailed",
        ),
        methods=("GET", "POST"),
        changes=False,
    ),
    Action(
        "DeleteGroupId",
        "11.3",
        10,
        (_GROUP, _INSTANCE, _REGION),
        (_REQUEST_ID,),
        _needs("DeleteGroupId", _ON_GROUP),
        (
            "DeleteGroupIdError",
            "InternalServerError",
            "ParameterFieldCheckFailed",
            "PermissionCheckFailed",
            "InstancePermissionCheckFailed",
            "InstanceNotFound",
            "ResourcePermissionCheckFailed",
        ),
    ),
    Action(
        "SendMessage",
        "12.1",
        1000,
        (_INSTANCE, Parameter("MqttTopic", rule=_TOPIC), Parameter("Payload"), _REGION),
        (_REQUEST_ID, Field("MsgId")),
        _needs("SendMessage", _ON_INSTANCE),  # inferred
        (*_TOKEN_ERRORS[:-2], "SendMessageFailed", *_TOKEN_ERRORS[-2:]),
    ),
    Action(
        "QuerySessionByClientId",
        "13.1",
        500,
        (Parameter("ClientId", rule=_ANY_CLIENT_ID), _INSTANCE, _REGION),
        (Field("OnlineStatus", "Boolean"), _REQUEST_ID),
        _needs("QuerySessionByClientId", _ON_INSTANCE),  # inferred
        _TOKEN_ERRORS,
        methods=("GET", "POST"),
        changes=False,
    ),
    Action(
        "BatchQuerySessionByClientIds",
        "13.2",
        100,
        (Parameter("ClientIdList", "RepeatList", _ANY_CLIENT_ID), _INSTANCE, _REGION),
        (
            Field("OnlineStatusList", "Array", (Field("ClientId"), Field("OnlineStatus", "Boolean"))),
            _REQUEST_ID,
        ),
        _needs("BatchQuerySessionByClientIds", _ON_INSTANCE),  # inferred
        _TOKEN_ERRORS,
        methods=("GET", "POST"),
        changes=False,
    ),
    _credential_action("RegisterDeviceCredential", "14.1", (_REQUEST_ID, _CREDENTIAL)),
    _credential_action("GetDeviceCredential", "14.2", (_REQUEST_ID, _CREDENTIAL), changes=False),
    _credential_action("UnRegisterDeviceCredential", "14.3", (_REQUEST_ID,)),
    _credential_action("RefreshDeviceCredential", "14.4", (_REQUEST_ID, _CREDENTIAL)),
    Action(
        "CloseConnection",
        "",  # newer than the guide (FACTS 3.1); quota, permission and codes are inferred from its neighbours
        100,
        (Parameter("ClientId", rule=_ANY_CLIENT_ID), _INSTANCE),
        # The only action whose success has a Code: 200, as in the vendor's page and SDK.
        (_REQUEST_ID, Field("Code", "Long"), Field("Message"), Field("Success", "Boolean")),
        _needs("CloseConnection", _ON_INSTANCE),  # inferred
        _TOKEN_ERRORS,
    ),
)

ACTIONS: Final[Mapping[str, Action]] = MappingProxyType({action.name: action for action in _ROWS})
"""The thirteen actions of chapter 4, and CloseConnection."""

PREVIOUS_QPS: Final = MappingProxyType({"ApplyToken": 500})
"""Where instances of the previous generation (V2) differ from ``Action.qps`` (FACTS 0.1)."""

UNSUPPORTED: Final = frozenset(
    {f"{verb}Topic" for verb in ("Create", "Delete", "List", "Update")}
    | {
        name
        for rule in ("MqttInboundRule", "MqttOutboundRule", "ClientStatusNotifyRule")
        for name in (f"Create{rule}", f"Delete{rule}", f"List{rule}InPage", f"Update{rule}")
    }
)
"""Names in the guide's RAM table for which it gives no request format (chapter 6)."""
