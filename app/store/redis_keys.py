"""The names of everything in Redis, and how long each lives.

Devices fall into 64 shards by a hash of their client ID. Every key of a shard carries its hash tag, so one script can
touch a device, its tokens and the shard's queue atomically, on Redis Cluster too.

=================  ============================================  ==========================================
key                what                                          lives
=================  ============================================  ==========================================
{sN}:d:CLIENT      device record                                 until removed: it is the registry
{sN}:ds            the shard's client IDs                        as long as one device is registered
{sN}:j:DIGEST      a used assertion (its ``jti``)                until the assertion could not be used anyway
{sN}:t:HANDLE      token record, applied for, live or revoked    until well after the cloud's expiry
{sN}:g:DIGEST      grant pointer: the handle to hand out         until that token's expiry
{sN}:f:DIGEST      flight: who applies now, or a failure's mark  a lease of seconds
{sN}:c:CLIENT      handles of the device's records, by expiry    until the last expiry
{sN}:x             handles of all records, by expiry             until the last expiry
{sN}:r:ROLE        handles of a role's records, by expiry        until the last expiry
{sN}:n:CLIENT      tokens newly applied for in this hour         an hour
{sN}:a             audit of the shard's devices and tokens       as long as it is short: its length is capped
{sN}:floors        count of large revokes (``#``), and at which  for ever: without it, revoked tokens would come
                   count everything (``*``) or a role was taken  back. One field a role
{sN}:q             revocations to deliver, first turn first      until delivered: none may be lost
{sN}:qd            revocations claimed or put off, by due time   until delivered
{sN}:qf            revocations that failed, by expiry            until retried, dropped or outlived
{sN}:k:JOB         what became of a job's revocations            31 days, longer than any token
{jobs}:a           audit of jobs                                 capped
{jobs}:all         IDs of jobs, by creation                      31 days
{jobs}:open        IDs of jobs with work left                    until done
{jobs}:j:JOB       a job                                         31 days
{jobs}:w:JOB       shards a job has still to go through, each    until done
                   with the time until which a worker has it
mac:HMAC           handle of a cloud token in hand               until that token's expiry
{q}:a:API          log of the permits taken for an API           the second that its limit is for
{q}:e:GROUP        the same for an egress group                  likewise
{q}:…:due          how far its pace is used up                   until it is not
{q}:queues          how many wait for permits, at each instance   a second after the last one spoke up
{ops}:keys         API keys, sealed, by ID                       until removed
{ops}:names        API keys' IDs by name                         until removed
{ops}:people       operators, sealed, by name                    until removed
{ops}:epoch        the last epoch given to any operator          for ever: without it, ended sessions could come
                                                                 back
{ops}:s:DIGEST     an operator's session, by its ID's hash       half an hour unused, half a day at most
{ops}:a            audit of what concerns no single device       capped
{tries}:n:DIGEST   attempts to prove a password by a name: in    an hour after the last
                   all, and from one address
{tries}:a:DIGEST   the same, by the address they came from       likewise
{stats}:m:MINUTE   what was counted in a minute of Unix time     two hours
{stats}:b:NAME     number of the last counts an instance added   two hours
{stats}:cloud      when calls to the cloud last succeeded and    seven days
                   failed, and how
{refused}:a        audit of refusals to proven callers           capped
{strangers}:a      audit of refusals to all others               capped
{…}:a:shipped      how far that audit stream is in the log       as long as the stream
{audit}:lease      which instance ships the audit to the log     seconds
=================  ============================================  ==========================================
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
JOBS_AUDIT: Final = "{jobs}:a"
OPERATORS_AUDIT: Final = "{ops}:a"
"""One tag for all of the operators', so that a change and its line in the audit are one step."""

CLOUD_SEEN: Final = "{stats}:cloud"
_PERMIT_QUEUES: Final = "{q}:queues"

REFUSED_AUDIT: Final = "{refused}:a"
STRANGERS_AUDIT: Final = "{strangers}:a"
"""Apart from what happened and from each other, so that no flood of refusals can flush it, not even a device's own."""

AUDIT_SHIPPING_LEASE: Final = "{audit}:lease"

Handle = NewType("Handle", str)
"""The short public name of a token: its shard and a random part."""

GrantKey = NewType("GrantKey", str)
"""Digest of client ID, canonical grant and capped life: what a token and a flight are keyed by."""

_HANDLE: Final = re.compile(r"(\d\d)-[A-Za-z0-9_-]{22}")


def shipped_key(stream: str) -> str:
    """Return the key of an audit stream's position: how far it is in the log."""
    return f"{stream}:shipped"


def grant_key(client_id: str, scope: str, life_s: int) -> GrantKey:
    """Digest what a token is keyed by; neither part can hold the NUL that parts them."""
    return GrantKey(hashlib.sha256(f"{client_id}\0{scope}\0{life_s}".encode()).hexdigest()[:32])


def jti_key(client_id: str, jti: str) -> str:
    """Digest an assertion's ``jti``, which is unique for its device alone and of any length."""
    # What a signed JSON may hold and UTF-8 may not, half surrogates, is a name like any other here.
    return hashlib.sha256(f"{client_id}\0{jti}".encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the 64, as a maker of key names."""

    number: int

    @classmethod
    def of(cls, client_id: str) -> Self:
        """Return the shard of a device."""
        return cls(zlib.crc32(client_id.encode()) % SHARDS)

    @classmethod
    def of_handle(cls, handle: str) -> Self | None:
        """Return the shard a handle names, or None if it is no handle."""
        match = _HANDLE.fullmatch(handle)
        return cls(int(match[1])) if match and int(match[1]) < SHARDS else None

    def draw_handle(self) -> Handle:
        """Draw a new handle in this shard."""
        return Handle(f"{self.number:02d}-{secrets.token_urlsafe(16)}")

    def device(self, client_id: str) -> str:
        """Return the key of a device's record."""
        return f"{{s{self.number}}}:d:{client_id}"

    @property
    def devices(self) -> str:
        """The key of the set of the shard's client IDs."""
        return f"{{s{self.number}}}:ds"

    def used_assertion(self, client_id: str, jti: str) -> str:
        """Return the key of a claim on an assertion's ``jti``."""
        return f"{{s{self.number}}}:j:{jti_key(client_id, jti)}"

    def token(self, handle: str) -> str:
        """Return the key of a token record; with an empty handle, their common prefix."""
        return f"{{s{self.number}}}:t:{handle}"

    def grant(self, grant: GrantKey) -> str:
        """Return the key of the pointer to a grant's token."""
        return f"{{s{self.number}}}:g:{grant}"

    def application(self, grant: GrantKey) -> str:
        """Return the key of a grant's flight."""
        return f"{{s{self.number}}}:f:{grant}"

    def live(self, client_id: str) -> str:
        """Return the key of the index of a device's records."""
        return f"{{s{self.number}}}:c:{client_id}"

    def new_tokens(self, client_id: str) -> str:
        """Return the key of the count of tokens applied for in this hour."""
        return f"{{s{self.number}}}:n:{client_id}"

    @property
    def audit(self) -> str:
        """The key of the audit stream of the shard's devices and tokens."""
        return f"{{s{self.number}}}:a"

    @property
    def everything(self) -> str:
        """The key of the index of all records."""
        return f"{{s{self.number}}}:x"

    def role(self, role: str) -> str:
        """Return the key of the index of a role's records."""
        return f"{{s{self.number}}}:r:{role}"

    @property
    def watermarks(self) -> str:
        """The key of the floors that revokes of a role and of everything raise."""
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

JOBS: Final = "{jobs}:all"
OPEN_JOBS: Final = "{jobs}:open"


def job_key(job: str) -> str:
    """Return the key of a job."""
    return f"{{jobs}}:j:{job}"


def job_work_key(job: str) -> str:
    """Return the key of the shards that a job has still to go through."""
    return f"{{jobs}}:w:{job}"


def session_key(digest: str) -> str:
    """Return the key of an operator's session; beside the operators, so that one script reads both."""
    return f"{{ops}}:s:{digest}"


def attempts_by_name_key(digest: str) -> str:
    """Return the key of the attempts to prove a name's password; one tag for all, for one script counts by both."""
    return f"{{tries}}:n:{digest}"


def attempts_by_address_key(digest: str) -> str:
    """Return the key of the attempts that came from an address."""
    return f"{{tries}}:a:{digest}"


def mac_key(mac: str) -> str:
    """Return the key that leads from a cloud token's HMAC to its handle; it has no shard, as none is known yet."""
    return f"mac:{mac}"


def minute_key(minute: int) -> str:
    """Return the key of what was counted in a minute of Unix time; one tag, for an instance adds to several at once."""
    return f"{{stats}}:m:{minute}"


def batch_key(instance: str) -> str:
    """Return the key of the number of the last counts that an instance added."""
    return f"{{stats}}:b:{instance}"


def quota_keys(action: str, egress_group: str) -> dict[str, str]:
    """Return the keys of ``take_permits.lua``; of one tag, for it takes permits of an API and of an egress group."""
    api, group = _quota_log(action), _egress_log(egress_group)
    return {
        "api_log": api,
        "api_due": f"{api}:due",
        "group_log": group,
        "group_due": f"{group}:due",
        "queues": _PERMIT_QUEUES,
    }


def quota_use_keys(actions: Iterable[str], egress_group: str) -> dict[str, str | list[str]]:
    """Return the keys of ``read_quota_usage.lua``: of the permits of these APIs and of an egress group."""
    return {
        "queues": _PERMIT_QUEUES,
        "group_log": _egress_log(egress_group),
        "api_logs": [*map(_quota_log, actions)],
    }


def _quota_log(action: str) -> str:
    return f"{{q}}:a:{action}"


def _egress_log(egress_group: str) -> str:
    return f"{{q}}:e:{egress_group}"
