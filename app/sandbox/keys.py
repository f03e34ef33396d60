"""The access keys that the sandbox knows, each with its account and RAM policies, and the file that adds some.

::

    {"keys": [{"id": "ak-devices", "secret": "s1", "policies": [POLICY, ...]},
              {"id": "ak-old", "secret": "s2", "active": false},
              {"id": "ak-neighbour", "secret": "s3", "account": "2002"},
              {"id": "STS.one", "secret": "s4", "security_token": "t", "expiration": "2027-01-01T00:00:00Z"}],
     "instances": {"post-cn-neighbour": "2002"}}

``policies`` left out is the account's root key, which may do everything. ``account`` left out is the owner of the
instance that the sandbox plays; ``instances`` are other accounts' own, for groups and permissions alone: the broker
serves one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from app.errors import Misconfigured
from app.model.secrets import AccessKeySecret, Secret
from app.rpc.catalog import ACTIONS
from app.rpc.ram import MalformedPolicy, RamPolicy, first_refused, needs_of, parse_ram_policy
from app.sandbox.answers import Fault

OWNER: Final = "1000000000000001"
"""The account of every key and instance of which nothing else is said."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What the cloud knows of an access key."""

    secret: AccessKeySecret
    account: str = OWNER
    policies: tuple[RamPolicy, ...] | None = None
    """``None`` is the account's root key, which may do everything."""
    active: bool = True
    security_token: Secret | None = None
    """A key with one is temporary (STS): each call must carry it."""
    expires_at_ms: int | None = None

    @property
    def is_root(self) -> bool:
        """Whether it is the account's own, and neither a RAM user's nor temporary."""
        return self.policies is None and self.security_token is None


@dataclass(frozen=True, slots=True)
class Keyring:
    """What a file of keys adds."""

    keys: Mapping[str, AccessKey] = field(default_factory=dict)
    instances: Mapping[str, str] = field(default_factory=dict)
    """Other accounts' instances, each with its owner."""


class _Key(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    secret: str
    account: str = OWNER
    policies: list[Any] | None = None
    active: bool = True
    security_token: str | None = None
    expiration: datetime | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[_Key] = []
    instances: dict[str, str] = {}


def load_keyring(path: Path) -> Keyring:
    """Read a file of keys. Raises ``Misconfigured`` with file, place and what is wrong there; never with a secret."""
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
        file = msgspec.convert(document, _File)
        return Keyring(_keys(file.keys), _instances(file.instances))
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # msgspec's and JSON's own among them
        raise Misconfigured(f"{path}: {error}") from None


def require_allowed(key: AccessKey, action: str, given: Mapping[str, str], *, region: str) -> None:
    """Let a call pass that the key's policies allow (chapter 6). Raises ``Fault``.

    The action's own tables have two codes for a refusal, and tell instances from topics and groups. FACTS 5 knows
    the gateway's ``Forbidden.RAM`` as well; which one this API sends is not documented, and the guide's go before.
    """
    if key.policies is None:
        return
    needs = needs_of(ACTIONS[action], given, region=region, account=key.account)
    refused = first_refused(key.policies, needs)
    if refused is not None:
        on_access = refused.action == "mq:MqttInstanceAccess"
        raise Fault("InstancePermissionCheckFailed" if on_access else "PermissionCheckFailed")


def _keys(rows: list[_Key]) -> Mapping[str, AccessKey]:
    keys: dict[str, AccessKey] = {}
    for number, row in enumerate(rows):
        place = f"keys[{number}]"
        if not row.id or not row.secret or "|" in row.id:  # the broker's user name is divided by |
            raise ValueError(f"{place}: id and secret are at least one character, and an id has no |")
        if row.id in keys:
            raise ValueError(f"{place}.id: {row.id!r} is there twice")
        if (row.security_token is None) != (row.expiration is None):
            raise ValueError(f"{place}: security_token and expiration come together, or neither")
        if row.expiration is not None and row.expiration.tzinfo is None:
            raise ValueError(f"{place}.expiration: without a time zone; end it with Z")
        keys[row.id] = AccessKey(
            AccessKeySecret(row.secret),
            row.account,
            None if row.policies is None else tuple(_policies(row.policies, f"{place}.policies")),
            row.active,
            Secret(row.security_token) if row.security_token else None,
            round(row.expiration.timestamp() * 1000) if row.expiration else None,
        )
    return keys


def _instances(owners: Mapping[str, str]) -> Mapping[str, str]:
    if OWNER in owners.values():
        raise ValueError(f"instances: account {OWNER!r} has the one that the sandbox plays, and no other")
    return owners


def _policies(documents: list[Any], place: str) -> list[RamPolicy]:
    policies = []
    for number, document in enumerate(documents):
        try:
            policies.append(parse_ram_policy(document))
        except MalformedPolicy as error:
            raise ValueError(f"{place}[{number}]: {error}") from None
    return policies


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name given twice: the Deny that a reader sees could be the one that is not kept."""
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice in one object")
    return document
