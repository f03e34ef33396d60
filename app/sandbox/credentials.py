"""Device credentials: register, get, refresh, unregister (guide chapter 14).

A credential serves one client ID, whose group must be there. Where the guide is silent: without its group an action is
refused for lack of permission; where the device has no credential, getting, refreshing and unregistering are refused
as a wrong parameter. A connection that was made with a secret which is no more is cut at once.
"""

from __future__ import annotations

import secrets
import sqlite3
import string
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from app.model.devices import ClientId, group_id
from app.model.secrets import AccessKeySecret
from app.sandbox.account import Account, Handlers
from app.sandbox.answers import Fault, Value
from app.sandbox.kept_credentials import Credential
from app.sandbox.verify import Call

_ALPHABET: Final = string.ascii_letters + string.digits
_CHARS: Final = 22
"""As in the guide's samples: 130 bits."""


async def _register(account: Account, call: Call) -> Mapping[str, Value]:
    """Make a credential. A second time the latest one counts (FACTS 1): another key ID, another secret."""
    client_id, now_ms = _client_id(account, call), account.clock.now_ms()
    credential = Credential(call.parameters["InstanceId"], client_id, _draw(), AccessKeySecret(_draw()), now_ms, now_ms)
    try:
        await account.state.credentials.register(credential)
    except sqlite3.IntegrityError:  # the group was deleted this moment
        raise Fault("PermissionCheckFailed") from None
    account.broker.recheck()
    return _answer(credential)


async def _get(account: Account, call: Call) -> Mapping[str, Value]:
    return _answer(_credential(account, call))


async def _refresh(account: Account, call: Call) -> Mapping[str, Value]:
    """Draw another secret; the key ID stays."""
    old = _credential(account, call)
    new = replace(old, secret=AccessKeySecret(_draw()), updated_at_ms=account.clock.now_ms())
    if not await account.state.credentials.refresh(new):
        raise Fault("ParameterCheckFailed")
    account.broker.recheck()
    return _answer(new)


async def _unregister(account: Account, call: Call) -> Mapping[str, Value]:
    await account.state.credentials.remove(_credential(account, call))
    account.broker.recheck()
    return {}


def _client_id(account: Account, call: Call) -> ClientId:
    """Return the call's client ID. Raises ``Fault`` unless its group is there."""
    client_id = ClientId(call.parameters["ClientId"])
    if account.state.groups.get(call.parameters["InstanceId"], group_id(client_id)) is None:
        raise Fault("PermissionCheckFailed")
    return client_id


def _credential(account: Account, call: Call) -> Credential:
    credential = account.state.credentials.get(call.parameters["InstanceId"], _client_id(account, call))
    if credential is None:
        raise Fault("ParameterCheckFailed")
    return credential


def _answer(credential: Credential) -> Mapping[str, Value]:
    return {
        "DeviceCredential": {
            "InstanceId": credential.instance_id,
            "DeviceAccessKeySecret": credential.secret.reveal(),
            "CreateTime": credential.created_at_ms,
            "UpdateTime": credential.updated_at_ms,
            "DeviceAccessKeyId": credential.access_key_id,
            "ClientId": credential.client_id,
        }
    }


def _draw() -> str:
    """Return a key ID or a secret in the shape of the guide's samples."""
    return "DC." + "".join(secrets.choice(_ALPHABET) for _ in range(_CHARS))


HANDLERS: Final[Handlers] = MappingProxyType(
    {
        "RegisterDeviceCredential": _register,
        "GetDeviceCredential": _get,
        "UnRegisterDeviceCredential": _unregister,
        "RefreshDeviceCredential": _refresh,
    }
)
