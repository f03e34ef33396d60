"""The MQTT 3.1.1 packets that a client sends, as values. A password is kept in a secret type."""

from __future__ import annotations

from dataclasses import dataclass

from app.model.secrets import Secret


@dataclass(frozen=True, slots=True)
class Message:
    """An application message."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT (section 3.1)."""

    client_id: str
    clean_session: bool
    keep_alive_s: int
    username: str | None
    password: Secret | None
    will: Message | None


@dataclass(frozen=True, slots=True)
class Publish:
    """PUBLISH (section 3.3)."""

    message: Message
    packet_id: int
    """0 with QoS 0."""


@dataclass(frozen=True, slots=True)
class Puback:
    """PUBACK (section 3.4)."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pubrel:
    """PUBREL (section 3.6)."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE (section 3.8): topic filters, each with the requested QoS."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE (section 3.10)."""

    packet_id: int
    filters: tuple[str, ...]


class Pingreq:
    """PINGREQ (section 3.12)."""


class Disconnect:
    """DISCONNECT (section 3.14)."""


Packet = Connect | Publish | Puback | Pubrel | Subscribe | Unsubscribe | Pingreq | Disconnect
