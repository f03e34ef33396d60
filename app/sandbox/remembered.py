"""What the broker remembers of one client ID (MQTT 3.1.1 section 3.1.2.4), and what it needs of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from app.model.topics import matches
from app.sandbox.access import Access
from app.sandbox.packets import Message

MAX_HELD: Final = 10_000
MAX_HELD_BYTES: Final = 4 * 1024 * 1024
"""QoS 1 messages that one session may hold without an acknowledgement; beyond, a client is cut, and one that is away
loses the newest."""

_MAX_PACKET_ID: Final = 0xFFFF


class Client(Protocol):
    """An authenticated connection, as far as the broker deals with one; times in milliseconds."""

    @property
    def access(self) -> Access:
        """What it may do now."""

    def end(self, why: str) -> None:
        """End it at once."""

    def cut(self, why: str) -> None:
        """Drop it: it does not take what it is sent."""

    def check_tokens(self) -> float:
        """End it if a token, or what else it signed in with, is no longer valid; return when to look again."""

    def send_message(self, message: Message, packet_id: int | None, *, duplicate: bool = False) -> None:
        """Send it a message that was authorised."""


@dataclass(slots=True)
class Held:
    """A QoS 1 message on its way to a client."""

    message: Message
    sent: bool = False


@dataclass(slots=True, eq=False)
class Session:
    """What the broker remembers of a client ID."""

    client_id: str
    connection: Client | None = None
    subscriptions: dict[str, int] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    received: set[int] = field(default_factory=set)
    """Packet IDs of QoS 2 messages routed and not yet released: a repeated one is not routed again (section 4.3.3)."""
    held_bytes: int = 0
    _last_id: int = 0

    def granted(self, topic: str) -> int | None:
        """Return the highest QoS under which this session subscribes to ``topic``: overlapping filters count once."""
        return max((qos for wide, qos in self.subscriptions.items() if matches(wide, topic)), default=None)

    def hold(self, message: Message) -> int | None:
        """Keep ``message`` until it is acknowledged; return its packet ID, or ``None`` when the session is full."""
        if len(self.held) >= MAX_HELD or self.held_bytes + len(message.payload) > MAX_HELD_BYTES:
            return None
        while True:
            self._last_id = self._last_id % _MAX_PACKET_ID + 1
            if self._last_id not in self.held:
                break
        self.held[self._last_id] = Held(message)
        self.held_bytes += len(message.payload)
        return self._last_id

    def settle(self, packet_id: int) -> None:
        """Forget a held message: acknowledged, or no longer to be delivered."""
        if held := self.held.pop(packet_id, None):
            self.held_bytes -= len(held.message.payload)
