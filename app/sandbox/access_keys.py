"""The access keys that the sandbox accepts, each with its account and RAM policies, and the file that adds some.

::

    {"keys": [{"id": "ak-devices", "secret": "s1", "policies": [POLICY, ...]},
              {"id": "ak-old", "secret": "s2", "active": false},
              {"id": "ak-neighbor", "secret": "s3", "account": "2002"},
              {"id": "STS.one", "secret": "s4", "security_token": "t", "expiration": "2027-01-01T00:00:00Z"}],
     "instances": {"post-cn-neighbor": "2002"}}

A key without ``policies`` is the root key of its account, which may do everything. Without ``account`` it belongs to
the owner of the instance that the sandbox plays. ``instances`` are the instances of other accounts. They have groups
and permissions only: the broker serves one instance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from app.errors import Misconfigured
from app.model.secrets import AccessKeySecret, Secret
from app.rpc.catalog import ACTIONS
from app.rpc.ram import MalformedPolicy, RamPolicy, first_refused, needs_of, parse_ram_policy
from app.sandbox.answers import CallRefused

DEFAULT_ACCOUNT: Final = "1000000000000001"
"""The account of every key and instance for which no other is given."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What the cloud stores about an access key."""

    secret: AccessKeySecret
    _: KW_ONLY
    account: str = DEFAULT_ACCOUNT
    policies: tuple[RamPolicy, ...] | None = None
    """``None`` for the account's root key, which may do everything."""
    active: bool = True
    security_token: Secret | None = None
    """A key with one is temporary (STS): each call must carry it."""
    expires_at_ms: int | None = None

    @property
    def is_root(self) -> bool:
        """Whether this is the account's own key: not a RAM user's, and not temporary."""
        return self.policies is None and self.security_token is None


@dataclass(frozen=True, slots=True)
class AddedAccessKeys:
    """The contents of a file of access keys."""

    keys: Mapping[str, AccessKey] = field(default_factory=dict)
    instances: Mapping[str, str] = field(default_factory=dict)
    """The instances of other accounts, each with its owner."""


class _AccessKeyEntry(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    secret: str
    account: str = DEFAULT_ACCOUNT
    policies: list[Any] | None = None
    active: bool = True
    security_token: str | None = None
    expiration: datetime | None = None


class _AccessKeyFile(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[_AccessKeyEntry] = []
    instances: dict[str, str] = {}


def load_access_keys(path: Path) -> AddedAccessKeys:
    """Read a file of access keys.

    Raises ``Misconfigured`` with the file, the place and what is wrong there, and never with a secret.
    """
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_without_repeated_names)
        file = msgspec.convert(document, _AccessKeyFile)
        return AddedAccessKeys(_keys_by_id(file.keys), _checked_instances(file.instances))
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of msgspec and of json too
        raise Misconfigured(f"{path}: {error}") from None


def require_allowed(key: AccessKey, action: str, given: Mapping[str, str], *, region: str) -> None:
    """Check that the key's policies allow a call (chapter 6). Raises ``CallRefused``.

    The error tables of the actions have two codes for this: one for instances, one for topics and groups. The gateway
    also has ``Forbidden.RAM`` (FACTS 5); no document says which one this API sends, so the guide's codes are used.
    """
    if key.policies is None:
        return
    needs = needs_of(ACTIONS[action], given, region=region, account=key.account)
    refused = first_refused(key.policies, needs)
    if refused is not None:
        is_instance = refused.action == "mq:MqttInstanceAccess"
        raise CallRefused("InstancePermissionCheckFailed" if is_instance else "PermissionCheckFailed")


def _keys_by_id(entries: list[_AccessKeyEntry]) -> Mapping[str, AccessKey]:
    keys: dict[str, AccessKey] = {}
    for number, entry in enumerate(entries):
        place = f"keys[{number}]"
        if entry.id in keys:
            raise ValueError(f"{place}.id: {entry.id!r} is given twice: remove one")
        keys[entry.id] = _access_key(entry, place)
    return keys


def _access_key(entry: _AccessKeyEntry, place: str) -> AccessKey:
    if not entry.id or not entry.secret or "|" in entry.id:  # | separates the parts of the broker's user name
        raise ValueError(f"{place}: id and secret must not be empty, and id must not contain |")
    if (entry.security_token is None) != (entry.expiration is None):
        raise ValueError(f"{place}: security_token and expiration come together: give both or neither")
    if entry.expiration is not None and entry.expiration.tzinfo is None:
        raise ValueError(f"{place}.expiration: without a time zone: end it with Z")
    return AccessKey(
        AccessKeySecret(entry.secret),
        account=entry.account,
        policies=None if entry.policies is None else tuple(_policies(entry.policies, f"{place}.policies")),
        active=entry.active,
        security_token=Secret(entry.security_token) if entry.security_token else None,
        expires_at_ms=round(entry.expiration.timestamp() * 1000) if entry.expiration else None,
    )


def _checked_instances(owners: Mapping[str, str]) -> Mapping[str, str]:
    if DEFAULT_ACCOUNT in owners.values():
        raise ValueError(
            f"instances: account {DEFAULT_ACCOUNT!r} has only the instance that the sandbox plays: name another account"
        )
    return owners


def _policies(documents: list[Any], place: str) -> list[RamPolicy]:
    policies = []
    for number, document in enumerate(documents):
        try:
            policies.append(parse_ram_policy(document))
        except MalformedPolicy as error:
            raise ValueError(f"{place}[{number}]: {error}") from None
    return policies


def _without_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that is given twice: the Deny that a reader sees could be the one that JSON drops."""
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} is given twice in one object: remove one")
    return document
