"""What probably lies behind an error of the cloud, and the cure, for operators: the cloud's own words seldom say."""

from __future__ import annotations

from typing import Final, TypeVar

_RAM: Final = "the access key's RAM user lacks a permission (`python -m app policy ram` prints what is needed)"
_INSTANCE: Final = "CLOUD_INSTANCE_ID is mistyped, of another region than CLOUD_REGION, or of another account"
_KEY: Final = "compare ALIBABA_CLOUD_ACCESS_KEY_ID with the account's access keys"
_SLOWER: Final = "other programs or egress groups call with this account too: lower the quota settings here, or there"
_BLOCKED: Final = "the cloud has blocked this IP address for more calls a second than it allows"

ERROR_HINTS: Final = {
    "permissioncheckfailed": (
        f"{_RAM}, a parent topic (the level before the first /) or group ID was not created in the instance, "
        "or instance, topic or group ID are of another account"
    ),
    "resourcepermissioncheckfailed": f"{_RAM}, or the group ID or topic is of another account",
    "instancepermissioncheckfailed": f"{_INSTANCE}; or mq:MqttInstanceAccess on it is not granted to the RAM user",
    "instancenotfound": _INSTANCE,
    "forbidden": _RAM,
    "nopermission": _RAM,
    "checkaccountinfofailed": "the STS token does not belong to the access key, is damaged or has expired",
    "apinotsupport": (
        "the instance is too old for this action (device credentials need V3 with kernel 3.3.0 or newer), "
        "or the action does not exist there: upgrade the instance"
    ),
    "serviceunavailable": (
        "the cloud fails for the moment; where it never answers otherwise, it is given nonsense: "
        f"{_INSTANCE}, or ExpireTime is no instant in milliseconds"
    ),
    "internalerror": "a fault of the cloud's own: try again, and report the RequestId if it stays",
    "internalservererror": "a fault of the cloud's own: try again, and report the RequestId if it stays",
    "parametercheckfailed": "a parameter is missing or breaks its rule (`python -m app call ACTION --help` lists them)",
    "parameterfieldcheckfailed": "a parameter is missing or breaks its rule (`python -m app call ACTION --help`)",
    "invalidparameter": "the parameter named after the dot breaks its rule (`python -m app call ACTION --help`)",
    "missing": "the parameter named in the code was not sent, or empty",
    "groupidalreadyexsited": "nothing is to be done: the group ID is there",
    "groupidalreadyusedbyotherusers": "instances without a namespace of their own share group IDs: take another name",
    "creategroupiderror": "a fault of the cloud's own: see with ListGroupId whether it was created, then try again",
    "deletegroupiderror": "a fault of the cloud's own: see with ListGroupId whether it is still there, then try again",
    "sendmessagefailed": "a fault of the cloud's own: the message may not have been stored, send it again",
    "applytokenoverflow": _SLOWER,
    "querytokenoverflow": _SLOWER,
    "revoketokenoverflow": _SLOWER,
    "systemoverflow": _SLOWER,
    "throttling": _SLOWER,
    "quotaexhausted": "more calls are asked for than the account's quota allows: wait, or have the quota raised",
    "quotaunreachable": "Redis (REDIS_URL) is away: without it nobody knows what the other instances call",
    "invalidaccesskeyid": f"the access key does not exist, was deleted or is disabled: {_KEY}",
    "signaturedoesnotmatch": "ALIBABA_CLOUD_ACCESS_KEY_SECRET is not this key's, or the call was changed on its way",
    "incompletesignature": "ALIBABA_CLOUD_ACCESS_KEY_SECRET is not this key's, or the call was changed on its way",
    "invalidtimestamp": "this machine's or Redis's clock is off by more than 15 minutes: set it by NTP",
    "signaturenonceused": "a call was sent twice, as by a proxy that repeats requests",
    "invalidsecuritytoken": "the STS token has expired or is not this key's: fetch new credentials",
    "missingsecuritytoken": "a temporary access key (STS.…) needs ALIBABA_CLOUD_SECURITY_TOKEN",
    "invalidaction": "the endpoint does not know the action: CLOUD_ENDPOINT may be another product's",
    "invalidapi": "the endpoint does not know the action: CLOUD_ENDPOINT may be another product's",
    "invalidversion": "CLOUD_ENDPOINT may be another product's",
    "invalidprotocol": "the action is served over https alone: CLOUD_ENDPOINT begins with http",
    "credentialsunavailable": "the source of the chain's credentials is out of reach or refuses: see its log",
    "cannotconnect": (f"CLOUD_ENDPOINT or CLOUD_REGION is wrong, a firewall or DNS stands between, or {_BLOCKED}"),
    "connectionlost": (
        f"the network, a proxy or the cloud broke off (whether the call took effect is unknown), or {_BLOCKED}"
    ),
    "timeout": "the network or the cloud is slow or away: whether the call took effect is unknown",
    "malformedanswer": "something between answers in the cloud's place, as a proxy's error page",
}
"""How codes begin, in lower case; the longest beginning that fits counts (FACTS 5 and 7; guide chapter 9)."""

_Value = TypeVar("_Value")


def error_hint(code: str) -> str:
    """Return the probable cause and the cure of an error ``Code``; empty for one that nobody has heard of."""
    return longest_beginning(ERROR_HINTS, code) or ""


def longest_beginning(table: dict[str, _Value], code: str) -> _Value | None:
    """Return the row of ``table`` whose key is the longest that ``code`` begins with, whatever its case."""
    lowered = code.lower()
    beginnings = [beginning for beginning in table if lowered.startswith(beginning)]
    return table[max(beginnings, key=len)] if beginnings else None
