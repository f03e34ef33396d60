"""Device credentials: register, get, refresh, unregister (guide chapter 14).

A credential belongs to one client ID, whose group must exist. The guide does not say how a missing group or a missing
credential is answered. Here a missing group is a missing permission, and a missing credential is a wrong parameter. A
connection that was made with a secret that is no longer valid is ended at once.
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
from app.sandbox.account import ActionHandler, SandboxAccount
from app.sandbox.answers import AnswerValue, CallRefused
from app.sandbox.device_tables import CredentialRecord
from app.sandbox.verify import VerifiedCall

_ALPHABET: Final = string.ascii_letters + string.digits
_GENERATED_CHARS: Final = 22
"""As in the guide's samples: 130 bits."""


async def _register_credential(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Create a credential. A later one replaces it (FACTS 1): with another key ID and another secret."""
    client_id, now_ms = _client_id(account, call), account.clock.now_ms()
    credential = CredentialRecord(
        instance_id=call.parameters["InstanceId"],
        client_id=client_id,
        access_key_id=_generate_text(),
        secret=AccessKeySecret(_generate_text()),
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    try:
        await account.state.credentials.register_credential(credential)
    except sqlite3.IntegrityError:  # the group was deleted since it was found
        raise CallRefused("PermissionCheckFailed") from None
    account.broker.check_connections()
    return _credential_answer(credential)


async def _get_credential(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    return _credential_answer(_find_credential(account, call))


async def _refresh_credential(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Generate another secret; the key ID stays."""
    old = _find_credential(account, call)
    new = replace(old, secret=AccessKeySecret(_generate_text()), updated_at_ms=account.clock.now_ms())
    if not await account.state.credentials.refresh_credential(new):
        raise CallRefused("ParameterCheckFailed")
    account.broker.check_connections()
    return _credential_answer(new)


async def _unregister_credential(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    await account.state.credentials.remove_credential(_find_credential(account, call))
    account.broker.check_connections()
    return {}


def _client_id(account: SandboxAccount, call: VerifiedCall) -> ClientId:
    """Return the client ID that the call names. Raises ``CallRefused`` unless its group exists."""
    client_id = ClientId(call.parameters["ClientId"])
    if account.state.groups.find_group(call.parameters["InstanceId"], group_id(client_id)) is None:
        raise CallRefused("PermissionCheckFailed")
    return client_id


def _find_credential(account: SandboxAccount, call: VerifiedCall) -> CredentialRecord:
    """Return the credential of the client ID that the call names. Raises ``CallRefused`` if there is none."""
    credential = account.state.credentials.find_credential(call.parameters["InstanceId"], _client_id(account, call))
    if credential is None:
        raise CallRefused("ParameterCheckFailed")
    return credential


def _credential_answer(credential: CredentialRecord) -> Mapping[str, AnswerValue]:
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


def _generate_text() -> str:
    """Return a new key ID or secret in the form of the guide's samples."""
    return "DC." + "".join(secrets.choice(_ALPHABET) for _ in range(_GENERATED_CHARS))


HANDLERS: Final[Mapping[str, ActionHandler]] = MappingProxyType(
    {
        "RegisterDeviceCredential": _register_credential,
        "GetDeviceCredential": _get_credential,
        "UnRegisterDeviceCredential": _unregister_credential,
        "RefreshDeviceCredential": _refresh_credential,
    }
)
