"""Whether a client may connect: client ID, user name, password and will of its CONNECT (FACTS 1).

The user name names the mode: tokens, the account's own key, or the device's credential. Each needs the group of the
client ID to exist. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from app.model.devices import ClientId, MalformedClientId, group_id, parse_client_id
from app.model.grants import TokenType
from app.model.mqtt_password import MalformedPassword, parse_password
from app.model.secrets import AccessKeySecret, CloudToken, Secret
from app.rpc import signature
from app.sandbox import codec
from app.sandbox.access import AccessDenied, ConnectionAccess, KeyAccess, ParentTopics, TokenAccess
from app.sandbox.access_keys import AccessKey
from app.sandbox.packets import Connect
from app.sandbox.state import SandboxClock, SandboxState

_IDENTIFIER_REJECTED: Final = 2
_BAD_USERNAME_OR_PASSWORD: Final = 4
_NOT_AUTHORIZED: Final = 5


class ConnectRefused(Exception):
    """A CONNECT is refused; ``connack`` is the answer, with its code (MQTT 3.1.1 section 3.2.2.3)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.connack = codec.encode_connack(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSignIn:
    """The sign-in to the instance that the broker serves."""

    state: SandboxState
    clock: SandboxClock
    instance_id: str
    owner: str
    access_keys: Mapping[str, AccessKey]
    parents: ParentTopics

    def authenticate(self, connect: Connect) -> ConnectionAccess:
        """Check a CONNECT: its form, then the password, the group, and the will. Raises ``ConnectRefused``."""
        try:
            client_id = parse_client_id(connect.client_id)
        except MalformedClientId as error:
            raise ConnectRefused(_IDENTIFIER_REJECTED, str(error)) from None
        mode, access_key_id, instance_id = _parse_username(connect.username or "")
        if instance_id != self.instance_id:
            raise ConnectRefused(_NOT_AUTHORIZED, "unknown instance")
        password = connect.password or Secret("")
        access = _MODES[mode](self, client_id, access_key_id, password)
        # Only after the password: a stranger must not learn which groups exist.
        if not self._has_group(client_id):
            reason = f"group {group_id(client_id)} does not exist: create it with CreateGroupId"
            raise ConnectRefused(_NOT_AUTHORIZED, reason)
        try:
            if connect.will is not None:
                access.require_write(connect.will.topic)
        except AccessDenied as denied:
            raise ConnectRefused(_NOT_AUTHORIZED, f"will: {denied}") from None
        return access

    def with_tokens(self, client_id: ClientId, access_key_id: str, password: Secret) -> ConnectionAccess:
        """``Token|KEY|INSTANCE``: the password consists of tokens, and all of them must be valid."""
        tokens = _parse_token_password(password)
        if self._active_key(access_key_id) is None:
            raise ConnectRefused(_NOT_AUTHORIZED, "the access key is not an active one of the instance's owner")
        access = TokenAccess(
            self.parents,
            lambda: self._has_group(client_id),
            access_key_id=access_key_id,
            tokens=self.state.tokens,
            clock=self.clock,
        )
        try:
            for type_, token in tokens.items():
                access.replace_token(type_, token)
        except AccessDenied as denied:
            raise ConnectRefused(_NOT_AUTHORIZED, f"token: {denied}") from None
        return access

    def with_signature(self, client_id: ClientId, access_key_id: str, password: Secret) -> ConnectionAccess:
        """``Signature|KEY|INSTANCE``: the password is the client ID, signed with the account's root key.

        No document says what a RAM user's key needs for this. It is refused, because this mode permits every topic.
        """
        key = self._active_key(access_key_id)
        _check_signature(key.secret if key is not None and key.is_root else None, client_id, password)
        return KeyAccess(self.parents, lambda: self._has_group(client_id))

    def with_credential(self, client_id: ClientId, access_key_id: str, password: Secret) -> ConnectionAccess:
        """``DeviceCredential|KEY|INSTANCE``: the password is the client ID, signed with the device's own key."""
        find_credential = self.state.credentials.find_credential
        credential = find_credential(self.instance_id, client_id)
        # Attack: a device signs in as another one with its own key. The key is looked up by client ID.
        is_own = credential is not None and credential.access_key_id == access_key_id
        _check_signature(credential.secret if credential is not None and is_own else None, client_id, password)
        return KeyAccess(self.parents, lambda: find_credential(self.instance_id, client_id) is credential)

    def _active_key(self, access_key_id: str) -> AccessKey | None:
        """Return an active key of the instance's owner: other accounts have tokens for other instances."""
        key = self.access_keys.get(access_key_id)
        return key if key is not None and key.active and key.account == self.owner else None

    def _has_group(self, client_id: ClientId) -> bool:
        return self.state.groups.find_group(self.instance_id, group_id(client_id)) is not None


_MODES: Final[Mapping[str, Callable[[BrokerSignIn, ClientId, str, Secret], ConnectionAccess]]] = {
    "Token": BrokerSignIn.with_tokens,
    "Signature": BrokerSignIn.with_signature,
    "DeviceCredential": BrokerSignIn.with_credential,
}


def _parse_username(text: str) -> tuple[str, str, str]:
    """Return mode, key ID and instance ID of ``MODE|KEY|INSTANCE``. Raises ``ConnectRefused``."""
    match text.split("|"):
        case [mode, access_key_id, instance_id] if mode in _MODES:
            return mode, access_key_id, instance_id
        case _:
            reason = f"the user name is not MODE|KEY|INSTANCE with a MODE of {', '.join(_MODES)}"
            raise ConnectRefused(_BAD_USERNAME_OR_PASSWORD, reason)


def _check_signature(secret: AccessKeySecret | None, client_id: ClientId, password: Secret) -> None:
    """Compare a password with the client ID's signature. Raises the same ``ConnectRefused`` for an unknown key."""
    if secret is None or not signature.equal(password.reveal(), signature.connect_password(secret, client_id).reveal()):
        raise ConnectRefused(_NOT_AUTHORIZED, "unknown key, or the password is not the client ID signed with it")


def _parse_token_password(password: Secret) -> Mapping[TokenType, CloudToken]:
    """Return the tokens of ``TYPE|TOKEN|TYPE|TOKEN…``, at most one of each type. Raises ``ConnectRefused``."""
    try:
        return parse_password(password.reveal())
    except MalformedPassword:
        reason = "the password is not a list of TYPE|TOKEN pairs, or has an unknown or repeated type"
        raise ConnectRefused(_BAD_USERNAME_OR_PASSWORD, reason) from None
