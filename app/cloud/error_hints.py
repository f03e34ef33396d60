"""The probable cause of an error of the cloud, and the cure, for operators: the cloud's own words seldom say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from app.model.text import Text, _

_RAM: Final = _("the access key's RAM user lacks a permission (`python -m app policy ram` prints what is needed)")
_INSTANCE: Final = _("CLOUD_INSTANCE_ID is mistyped, of another region than CLOUD_REGION, or of another account")
_KEY: Final = _("compare ALIBABA_CLOUD_ACCESS_KEY_ID with the account's access keys")
_SLOWER: Final = _(
    "other programs or egress groups call with this account too: lower the quota settings here, or there"
)
_BLOCKED: Final = _("the cloud has blocked this IP address for more calls a second than it allows")
_FAULT: Final = _("a fault of the cloud: try again, and report the RequestId if it stays")
_PARAMETER: Final = _("a parameter is missing or breaks its rule (`python -m app call ACTION --help` lists them)")
_SECRET: Final = _("ALIBABA_CLOUD_ACCESS_KEY_SECRET belongs to another key, or the call was changed on its way")
_ENDPOINT: Final = _("CLOUD_ENDPOINT may be another product's")
_ACTION: Final = _("the endpoint does not know the action: %(cause)s", cause=_ENDPOINT)

ERROR_HINTS: Final[Mapping[str, Text]] = {
    "permissioncheckfailed": _(
        "%(ram)s, a parent topic (the level before the first /) or group ID was not created in the instance, "
        "or instance, topic or group ID are of another account",
        ram=_RAM,
    ),
    "resourcepermissioncheckfailed": _("%(ram)s, or the group ID or topic is of another account", ram=_RAM),
    "instancepermissioncheckfailed": _(
        "%(instance)s; or mq:MqttInstanceAccess on it is not granted to the RAM user", instance=_INSTANCE
    ),
    "instancenotfound": _INSTANCE,
    "forbidden": _RAM,
    "nopermission": _RAM,
    "checkaccountinfofailed": _("the STS token does not belong to the access key, is damaged or has expired"),
    "apinotsupport": _(
        "the instance is too old for this action (device credentials need V3 with kernel 3.3.0 or newer), "
        "or the action does not exist there: upgrade the instance"
    ),
    "serviceunavailable": _(
        "the cloud fails at present; if it always answers so, it cannot read the call: "
        "%(instance)s, or ExpireTime is not a time in milliseconds",
        instance=_INSTANCE,
    ),
    "internalerror": _FAULT,
    "internalservererror": _FAULT,
    "parametercheckfailed": _PARAMETER,
    "parameterfieldcheckfailed": _PARAMETER,
    "invalidparameter": _(
        "the parameter named after the dot breaks its rule (`python -m app call ACTION --help` lists them)"
    ),
    "missing": _("the parameter named in the code was not sent, or empty"),
    "groupidalreadyexsited": _("nothing is to be done: the group ID exists"),
    "groupidalreadyusedbyotherusers": _(
        "instances without a namespace of their own share group IDs: take another name"
    ),
    "creategroupiderror": _("a fault of the cloud: see with ListGroupId whether it was created, then try again"),
    "deletegroupiderror": _("a fault of the cloud: see with ListGroupId whether it is still there, then try again"),
    "sendmessagefailed": _("a fault of the cloud: the message may not have been stored, send it again"),
    "applytokenoverflow": _SLOWER,
    "querytokenoverflow": _SLOWER,
    "revoketokenoverflow": _SLOWER,
    "systemoverflow": _SLOWER,
    "throttling": _SLOWER,
    "quotaexhausted": _("more calls are asked for than the account's quota allows: wait, or have the quota raised"),
    "quotaunreachable": _("Redis (REDIS_URL) cannot be reached: without it the other instances' calls are unknown"),
    "breakeropen": _("calls got no answer for some seconds, so that they pause: the log of this server has the cause"),
    "invalidaccesskeyid": _("the access key does not exist, was deleted or is disabled: %(key)s", key=_KEY),
    "signaturedoesnotmatch": _SECRET,
    "incompletesignature": _SECRET,
    "invalidtimestamp": _("this machine's or Redis's clock is off by more than 15 minutes: set it by NTP"),
    "signaturenonceused": _("a call was sent twice, as by a proxy that repeats requests"),
    "invalidsecuritytoken": _("the STS token has expired or belongs to another key: fetch new credentials"),
    "missingsecuritytoken": _("a temporary access key (STS.…) needs ALIBABA_CLOUD_SECURITY_TOKEN"),
    "invalidaction": _ACTION,
    "invalidapi": _ACTION,
    "invalidversion": _ENDPOINT,
    "invalidprotocol": _("the action is available over https only: CLOUD_ENDPOINT begins with http"),
    "credentialsunavailable": _(
        "the source of the chain's credentials cannot be reached or refuses: see the log of this server"
    ),
    "cannotconnect": _(
        "CLOUD_ENDPOINT or CLOUD_REGION is wrong, a firewall or DNS is in the way, or %(blocked)s", blocked=_BLOCKED
    ),
    "connectionlost": _(
        "the network, a proxy or the cloud closed the connection (whether the call took effect is unknown), "
        "or %(blocked)s",
        blocked=_BLOCKED,
    ),
    "timeout": _("the network or the cloud is slow or down: whether the call took effect is unknown"),
    "malformedanswer": _("something answers in the cloud's place, as with a proxy's error page"),
}
"""By the beginning of the code in lower case; the longest that fits counts (FACTS 5 and 7; guide chapter 9)."""

_NO_HINT: Final = Text("", {})
_Value = TypeVar("_Value")


def error_hint(code: str) -> Text:
    """Return the probable cause and the cure of an error ``Code``; empty for an unknown one."""
    return longest_prefix(ERROR_HINTS, code) or _NO_HINT


def longest_prefix(table: Mapping[str, _Value], code: str) -> _Value | None:
    """Return the row of ``table`` whose key is the longest that ``code`` begins with, whatever its case."""
    lowered = code.lower()
    prefixes = [prefix for prefix in table if lowered.startswith(prefix)]
    return table[max(prefixes, key=len)] if prefixes else None
