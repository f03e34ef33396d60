"""Who may connect: client ID, user name, password and will of a CONNECT (FACTS 1). Nothing here changes anything.

The user name tells the mode: with tokens, with the account's key or with the device's own credential. The client ID's
group must be there in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from app.model.devices import ClientId, MalformedClientId, group_id, parse_client_id
from app.model.grants import TokenType
from app.model.secrets import AccessKeySecret, CloudToken, Secret
from app.rpc import signature
from app.sandbox import codec
from app.sandbox.access import Access, Denied, KeyAccess, TokenAccess
from app.sandbox.clock import Clock
from app.sandbox.keys import AccessKey
from app.sandbox.packets import Connect
from app.sandbox.parents import ParentTopics
from app.sandbox.state import State

_IDENTIFIER_REJECTED: Final = 2
_BAD_USERNAME_OR_PASSWORD: Final = 4
_NOT_AUTHORIZED: Final = 5


class Refused(Exception):
    """A CONNECT is refused, with a CONNACK code (MQTT 3.1.1 section 3.2.2.3) that ``connack`` tells."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.connack = codec.connack(code)


@dataclass(frozen=True, slots=True)
class SignIn:
    """The instance that clients sign in to."""

    state: State
    clock: Clock
    instance_id: str
    owner: str
    access_keys: Mapping[str, AccessKey]
    parents: ParentTopics

    def authenticate(self, connect: Connect) -> Access:
        """Check a CONNECT: its form, then the password, then the group and the will. Raises ``Refused``."""
        try:
            client_id = parse_client_id(connect.client_id)
        except MalformedClientId as error:
            raise Refused(_IDENTIFIER_REJECTED, str(error)) from None
        mode, access_key_id, instance_id = _parse_username(connect.username or "")
        if instance_id != self.instance_id:
            raise Refused(_NOT_AUTHORIZED, "unknown instance")
        password = connect.password or Secret("")
        access = _MODES[mode](self, client_id, access_key_id, password)
        # Only now: a stranger learns of no group whether it is there.
        if not self._has_group(client_id):
            raise Refused(_NOT_AUTHORIZED, f"there is no group {group_id(client_id)}: CreateGroupId makes it")
        try:
            if connect.will is not None:
                access.require_write(connect.will.topic)
        except Denied as denied:
            raise Refused(_NOT_AUTHORIZED, f"will: {denied}") from None
        return access

    def with_tokens(self, client_id: ClientId, access_key_id: str, password: Secret) -> Access:
        """``Token|AK|INSTANCE``: the tokens themselves are the password, and all of them must be good."""
        tokens = _parse_password(password)
        if self._key(access_key_id) is None:
            raise Refused(_NOT_AUTHORIZED, "no active access key of the instance's owner")
        access = TokenAccess(self.state, self.clock, self.parents, lambda: self._has_group(client_id), access_key_id)
        try:
            for type_, token in tokens.items():
                access.put(type_, token)
        except Denied as denied:
            raise Refused(_NOT_AUTHORIZED, f"token: {denied}") from None
        return access

    def with_signature(self, client_id: ClientId, access_key_id: str, password: Secret) -> Access:
        """``Signature|AK|INSTANCE``: the client ID, signed with the account's root key.

        What a RAM user's key would need to sign in is in no document, and this mode reaches every topic.
        """
        key = self._key(access_key_id)
        _check_signature(key.secret if key is not None and key.is_root else None, client_id, password)
        return KeyAccess(self.parents, lambda: self._has_group(client_id))

    def with_credential(self, client_id: ClientId, access_key_id: str, password: Secret) -> Access:
        """``DeviceCredential|DeviceAccessKeyId|INSTANCE``: the client ID, signed with the device's own key."""
        credential = self.state.credentials.get(self.instance_id, client_id)
        # Looked up by client ID: a device's key opens no other client ID than its own.
        own = credential is not None and credential.access_key_id == access_key_id
        _check_signature(credential.secret if credential is not None and own else None, client_id, password)
        return KeyAccess(self.parents, lambda: self.state.credentials.get(self.instance_id, client_id) is credential)

    def _key(self, access_key_id: str) -> AccessKey | None:
        """Return an active key of the instance's owner: another account's tokens are for its own instance."""
        key = self.access_keys.get(access_key_id)
        return key if key is not None and key.active and key.account == self.owner else None

    def _has_group(self, client_id: ClientId) -> bool:
        return self.state.groups.get(self.instance_id, group_id(client_id)) is not None


_MODES: Final[Mapping[str, Callable[[SignIn, ClientId, str, Secret], Access]]] = {
    "Token": SignIn.with_tokens,
    "Signature": SignIn.with_signature,
    "DeviceCredential": SignIn.with_credential,
}


def _parse_username(text: str) -> tuple[str, str, str]:
    """Return mode, key ID and instance ID of ``MODE|KEY|INSTANCE``. Raises ``Refused``."""
    match text.split("|"):
        case [mode, access_key_id, instance_id] if mode in _MODES:
            return mode, access_key_id, instance_id
        case _:
            raise Refused(_BAD_USERNAME_OR_PASSWORD, f"user name is not MODE|KEY|INSTANCE, MODE of {', '.join(_MODES)}")


def _check_signature(secret: AccessKeySecret | None, client_id: ClientId, password: Secret) -> None:
    """Compare a password with the client ID's signature. Raises ``Refused``, for an unknown key as for a wrong one."""
    if secret is None or not signature.equal(password.reveal(), signature.connect_password(secret, client_id).reveal()):
        raise Refused(_NOT_AUTHORIZED, "unknown key, or the password is not the client ID signed with it")


def _parse_password(password: Secret) -> dict[TokenType, CloudToken]:
    """Return the tokens of ``TYPE|TOKEN|TYPE|TOKEN…``, at most one of each type. Raises ``Refused``."""
    parts = password.reveal().split("|")
    tokens: dict[TokenType, CloudToken] = {}
    if len(parts) % 2:
        raise Refused(_BAD_USERNAME_OR_PASSWORD, "password is not made of pairs")
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        if name not in TokenType.__members__ or not text or TokenType(name) in tokens:
            raise Refused(_BAD_USERNAME_OR_PASSWORD, "password has an unknown or repeated type, or an empty token")
        tokens[TokenType(name)] = CloudToken(text)
    return tokens
