"""Who may connect: client ID, user name, password and will of a CONNECT (FACTS 1). Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.model.devices import MalformedClientId, parse_client_id
from app.model.grants import TokenType
from app.model.secrets import CloudToken, Secret
from app.sandbox import codec
from app.sandbox.access import Access, Denied
from app.sandbox.clock import Clock
from app.sandbox.keys import AccessKey
from app.sandbox.packets import Connect
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

    def authenticate(self, connect: Connect) -> Access:
        """Check a CONNECT: its form, then every token, then the will. Raises ``Refused``."""
        try:
            parse_client_id(connect.client_id)
        except MalformedClientId as error:
            raise Refused(_IDENTIFIER_REJECTED, str(error)) from None
        access_key_id, instance_id = _parse_username(connect.username or "")
        tokens = _parse_password(connect.password or Secret(""))
        key = self.access_keys.get(access_key_id)
        # Another account's key may have tokens too, for that account's own instance: none of them counts here.
        if key is None or not key.active or key.account != self.owner or instance_id != self.instance_id:
            raise Refused(_NOT_AUTHORIZED, "no active access key of the instance's owner, or another instance")
        access = Access(self.state, self.clock, access_key_id)
        try:
            for type_, token in tokens.items():
                access.put(type_, token)
            if connect.will is not None:
                access.require_write(connect.will.topic)
        except Denied as denied:
            raise Refused(_NOT_AUTHORIZED, f"token or will: {denied}") from None
        return access


def _parse_username(text: str) -> tuple[str, str]:
    """Return access key ID and instance ID of ``Token|AK|INSTANCE``. Raises ``Refused``."""
    match text.split("|"):
        case ["Token", access_key_id, instance_id]:
            return access_key_id, instance_id
        case _:  # Signature and DeviceCredential are not served
            raise Refused(_BAD_USERNAME_OR_PASSWORD, "user name is not Token|AccessKeyId|InstanceId")


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
