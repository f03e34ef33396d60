"""The names of everything in Redis, and how long each is kept.

Devices fall into 64 shards by a hash of their client ID. Every key of a shard begins with its hash tag, so one script
can touch a device, its tokens and the shard's queue atomically, on Redis Cluster too.

=================  =============================================  =========================================
key                what                                           kept
=================  =============================================  =========================================
{sN}:d:CLIENT      device record                                  until removed
{sN}:di            client IDs of the shard, in their order        as long as one device is registered
{sN}:j:DIGEST      a used assertion (its ``jti``)                 until the assertion expires
{sN}:t:HANDLE      token record: applied for, live or revoked     until well after the cloud's expiry
{sN}:g:DIGEST      grant pointer: the handle to hand out          until that token's expiry
{sN}:f:DIGEST      application: who applies for a grant, or the   a lease of seconds
                   mark of one that failed
{sN}:c:CLIENT      handles of the device's records, by expiry     until the last expiry
{sN}:x             handles of all records, by expiry              until the last expiry
{sN}:r:ROLE        handles of a role's records, by expiry         until the last expiry
{sN}:n:CLIENT      count of new tokens in this hour               an hour
{sN}:a             audit of the shard's devices and tokens        capped in length
{sN}:watermarks    revocation watermarks: how often any was       always: without it revoked tokens would be
                   raised (``#``), and that count when            valid again. One field a role
                   everything (``*``) or a role was revoked
{sN}:q             revocations to deliver, in their order         until delivered: none may be lost
{sN}:qd            revocations claimed or put off, by due time    until delivered
{sN}:qf            revocations that failed, by expiry             until retried, dropped or lapsed
{sN}:k:JOB         what became of a job's revocations             31 days, longer than any token
{jobs}:a           audit of jobs                                  capped in length
{jobs}:all         IDs of jobs, by creation                       31 days
{jobs}:open        IDs of jobs with work left                     until done
{jobs}:j:JOB       a job                                          31 days
{jobs}:w:JOB       shards that a job has still to go through,     until done
                   each with the end of its worker's claim
mac:HMAC           handle of a cloud token                        until that token's expiry
{q}:a:API          log: until when the permits taken for an API   until none counts
                   count towards its limit
{q}:e:GROUP        the same for an egress group                   likewise
{q}:…:state        when the next permit is due by the pace, and   until both are past
                   what the log comes to
{q}:queues         how many permits each instance waits for       a second after an instance last asked
{q}:instances:G    live instances of an egress group              seconds after the last report
{q}:pace:API       back-off: the share of an API's pace           until the pace is full again
{q}:breaker:GROUP  breaker of an egress group that opened or      seconds after it closed, minutes without
                   has just closed; ``:NAME``: of one instance    reports
{q}:promise:API    until when callers were promised to be served  until then
{q}:promise:…:G    the same of those that a group's breaker       likewise
                   delayed; ``:NAME``: of one instance
{q}:server         the Redis server that the logs were written    always: without it no permit is given for a
                   at, and since when                             second
{ops}:keys         API keys, sealed, by ID                        until removed
{ops}:names        API keys' IDs by name                          until removed
{ops}:people       operators, sealed, by name                     until removed
{ops}:epoch        the last epoch given to any operator           always: without it ended sessions could be
                                                                  valid again
{ops}:s:DIGEST     an operator's session, by its ID's hash        half an hour unused, half a day at most
{ops}:a            audit of what concerns no single device        capped in length
{tries}:n:DIGEST   attempts to prove a password by a name: in     an hour after the last
                   all, and from one address
{tries}:a:DIGEST   the same from an address                       likewise
{tries}:c:DIGEST   times of a client ID's failed authentications  a minute after the last
{tries}:f:DIGEST   the same from an address                       likewise
{stats}:m:MINUTE   what was counted in a minute of Unix time      two hours
{stats}:b:NAME     number of an instance's last batch of counts   two hours
{stats}:cloud      when calls to the cloud last succeeded and     seven days
                   failed, and how
{refused}:a        audit of refusals to authenticated callers     capped in length
{strangers}:a      audit of refusals to all others                capped in length
{…}:a:shipped      how far that audit stream is in the log        as long as the stream
{audit}:lease      which instance ships the audit to the log      seconds
=================  =============================================  ==================================
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType, Self

SHARDS: Final = 64

API_KEYS: Final = "{ops}:keys"
API_KEY_NAMES: Final = "{ops}:names"
OPERATORS: Final = "{ops}:people"
OPERATOR_EPOCH: Final = "{ops}:epoch"
OPERATORS_AUDIT: Final = "{ops}:a"
"""All of these have one tag, so that a change and its audit entry are one step."""

JOBS: Final = "{jobs}:all"
OPEN_JOBS: Final = "{jobs}:open"
JOBS_AUDIT: Final = "{jobs}:a"

CLOUD_SEEN: Final = "{stats}:cloud"
_PERMIT_QUEUES: Final = "{q}:queues"

QUOTA_SERVER: Final = "{q}:server"
"""The ``run_id`` of the server at which permits were logged last, and since when: another may lack the last ones."""

REFUSED_AUDIT: Final = "{refused}:a"
STRANGERS_AUDIT: Final = "{strangers}:a"
"""Apart from other events and from each other: a flood of refusals, even a device's own, flushes nothing else."""

AUDIT_SHIPPING_LEASE: Final = "{audit}:lease"

Handle = NewType("Handle", str)
"""The short public name of a token: its shard and a random part."""

GrantKey = NewType("GrantKey", str)
"""Digest of client ID, canonical grant and capped life: what a token and its application are keyed by."""

_HANDLE: Final = re.compile(r"(\d\d)-[A-Za-z0-9_-]{22}")


def shipped_key(stream: str) -> str:
    """Return the key of an audit stream's position: how far it is in the log."""
    return f"{stream}:shipped"


def grant_key(client_id: str, scope: str, life_s: int) -> GrantKey:
    """Digest what a token is keyed by; no part can contain the NUL between them."""
    return GrantKey(hashlib.sha256(f"{client_id}\0{scope}\0{life_s}".encode()).hexdigest()[:32])


def jti_key(client_id: str, jti: str) -> str:
    """Digest an assertion's ``jti``, which is unique for its device alone and of any length."""
    # Signed JSON may contain half surrogates, which UTF-8 may not.
    return hashlib.sha256(f"{client_id}\0{jti}".encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the 64 shards, and the names of its keys."""

    number: int

    @classmethod
    def of(cls, client_id: str) -> Self:
        """Return the shard of a device."""
        return cls(zlib.crc32(client_id.encode()) % SHARDS)

    @classmethod
    def of_handle(cls, handle: str) -> Self | None:
        """Return the shard that a handle names, or None if it is not a valid handle."""
        match = _HANDLE.fullmatch(handle)
        return cls(int(match[1])) if match and int(match[1]) < SHARDS else None

    @classmethod
    def of_known_handle(cls, handle: Handle) -> Self:
        """Return the shard of a handle that was generated here."""
        return cls(int(handle[:2]))

    def new_handle(self) -> Handle:
        """Generate a handle in this shard."""
        return Handle(f"{self.number:02d}-{secrets.token_urlsafe(16)}")

    def device(self, client_id: str) -> str:
        """Return the key of a device's record."""
        return f"{{s{self.number}}}:d:{client_id}"

    @property
    def devices(self) -> str:
        """The key of the shard's client IDs: a sorted set in the order of their letters, all with the score 0."""
        return f"{{s{self.number}}}:di"

    def used_assertion(self, client_id: str, jti: str) -> str:
        """Return the key that says that an assertion is used."""
        return f"{{s{self.number}}}:j:{jti_key(client_id, jti)}"

    def token(self, handle: str) -> str:
        """Return the key of a token record."""
        return f"{{s{self.number}}}:t:{handle}"

    def grant(self, grant: GrantKey) -> str:
        """Return the key of the pointer to a grant's token."""
        return f"{{s{self.number}}}:g:{grant}"

    def application(self, grant: GrantKey) -> str:
        """Return the key of the application for a grant."""
        return f"{{s{self.number}}}:f:{grant}"

    def device_index(self, client_id: str) -> str:
        """Return the key of the index of a device's records."""
        return f"{{s{self.number}}}:c:{client_id}"

    def role_index(self, role: str) -> str:
        """Return the key of the index of a role's records."""
        return f"{{s{self.number}}}:r:{role}"

    @property
    def index(self) -> str:
        """The key of the index of all records."""
        return f"{{s{self.number}}}:x"

    def new_tokens(self, client_id: str) -> str:
        """Return the key of the count of a device's new tokens in this hour."""
        return f"{{s{self.number}}}:n:{client_id}"

    @property
    def audit(self) -> str:
        """The key of the audit stream of the shard's devices and tokens."""
        return f"{{s{self.number}}}:a"

    @property
    def watermarks(self) -> str:
        """The key of the revocation watermarks."""
        return f"{{s{self.number}}}:watermarks"

    @property
    def queue(self) -> str:
        """The key of the revocations to deliver."""
        return f"{{s{self.number}}}:q"

    @property
    def delayed(self) -> str:
        """The key of the revocations that are claimed or put off."""
        return f"{{s{self.number}}}:qd"

    @property
    def failed(self) -> str:
        """The key of the revocations that failed."""
        return f"{{s{self.number}}}:qf"

    def job_counts(self, job: str) -> str:
        """Return the key of what became of a job's revocations in this shard."""
        return f"{{s{self.number}}}:k:{job}"


ALL_SHARDS: Final = tuple(Shard(number) for number in range(SHARDS))


def job_key(job: str) -> str:
    """Return the key of a job."""
    return f"{{jobs}}:j:{job}"


def job_work_key(job: str) -> str:
    """Return the key of the shards that a job has still to go through."""
    return f"{{jobs}}:w:{job}"


def session_key(digest: str) -> str:
    """Return the key of an operator's session; of the operators' tag, for one script reads both."""
    return f"{{ops}}:s:{digest}"


def attempts_by_name_key(digest: str) -> str:
    """Return the key of the attempts to prove a name's password; one tag for all, for one script counts several."""
    return f"{{tries}}:n:{digest}"


def attempts_by_address_key(digest: str) -> str:
    """Return the key of the attempts from an address."""
    return f"{{tries}}:a:{digest}"


def failures_by_client_key(digest: str) -> str:
    """Return the key of a client ID's failed authentications; of one tag with the next, for one script counts both."""
    return f"{{tries}}:c:{digest}"


def failures_by_address_key(digest: str) -> str:
    """Return the key of the failed authentications from an address."""
    return f"{{tries}}:f:{digest}"


def mac_key(mac: str) -> str:
    """Return the key of the handle of the cloud token with this HMAC; it has no shard, as none is known yet."""
    return f"mac:{mac}"


def minute_key(minute: int) -> str:
    """Return the key of what was counted in a minute of Unix time; one tag, for an instance adds to several at once."""
    return f"{{stats}}:m:{minute}"


def batch_key(instance: str) -> str:
    """Return the key of the number of an instance's last batch of counts."""
    return f"{{stats}}:b:{instance}"


def permit_keys(action: str, egress_group: str, instance: str) -> dict[str, str]:
    """Return the keys of ``take_permits.lua``; of one tag, for it takes permits of an API and of an egress group."""
    api, group = _api_log(action), _egress_log(egress_group)
    return {
        "api_log": api,
        "api_state": f"{api}:state",
        "group_log": group,
        "group_state": f"{group}:state",
        "queues": _PERMIT_QUEUES,
        "pace": _pace(action),
        "server": QUOTA_SERVER,
        **report_keys(egress_group, instance),
    }


def report_keys(egress_group: str, instance: str) -> dict[str, str]:
    """Return the keys of ``report_calls.lua``: what the instances of an egress group know of the cloud."""
    breaker = _breaker(egress_group)
    return {
        "group_breaker": breaker,
        "own_breaker": f"{breaker}:{instance}",
        "instances": f"{{q}}:instances:{egress_group}",
    }


def promise_keys(action: str, egress_group: str, instance: str) -> dict[str, str]:
    """Return the keys of ``promise_retry.lua``."""
    breaker = _breaker(egress_group)
    promise = f"{{q}}:promise:{action}"
    return {
        "promise": promise,
        "group_promise": f"{promise}:{egress_group}",
        "own_promise": f"{promise}:{egress_group}:{instance}",
        "pace": _pace(action),
        "queues": _PERMIT_QUEUES,
        "api_state": f"{_api_log(action)}:state",
        "group_state": f"{_egress_log(egress_group)}:state",
        "group_breaker": breaker,
        "own_breaker": f"{breaker}:{instance}",
    }


def quota_usage_keys(actions: Iterable[str], egress_group: str) -> dict[str, str | list[str]]:
    """Return the keys of ``read_quota_usage.lua``: of the permits of these APIs and of an egress group."""
    return {
        "queues": _PERMIT_QUEUES,
        "group_breaker": _breaker(egress_group),
        "group_log": _egress_log(egress_group),
        "api_logs": [*map(_api_log, actions)],
    }


def _api_log(action: str) -> str:
    return f"{{q}}:a:{action}"


def _egress_log(egress_group: str) -> str:
    return f"{{q}}:e:{egress_group}"


def _pace(action: str) -> str:
    return f"{{q}}:pace:{action}"


def _breaker(egress_group: str) -> str:
    return f"{{q}}:breaker:{egress_group}"
