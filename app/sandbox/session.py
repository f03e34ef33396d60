"""The session of one client ID (MQTT 3.1.1 section 3.1.2.4): subscriptions, and messages not yet acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from app.model.topics import matches
from app.sandbox.access import ConnectionAccess
from app.sandbox.packets import Message

MAX_PENDING: Final = 10_000
MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
"""QoS 1 messages that may wait for a client's acknowledgment. Beyond this a connected client is disconnected, and an
absent one loses the newest message."""

_MAX_PACKET_ID: Final = 0xFFFF


class SessionConnection(Protocol):
    """The connection that uses a session, as the broker needs it."""

    access: ConnectionAccess
    """What the client may do."""

    def end(self, reason: str) -> None:
        """End the connection at once; what was sent before is still delivered. A second call does nothing."""

    def drop_unresponsive(self) -> None:
        """Drop a client that does not acknowledge."""

    def check_tokens(self) -> int | None:
        """End the connection if its sign-in is no longer valid; return when to check again, in milliseconds."""

    def send_message(self, message: Message, packet_id: int | None, *, duplicate: bool = False) -> None:
        """Send a message that the caller has authorized."""


@dataclass(slots=True)
class PendingDelivery:
    """A QoS 1 message that its receiver has not acknowledged."""

    message: Message
    sent: bool = False


@dataclass(slots=True, eq=False)
class MqttSession:
    """What the broker stores about a client ID."""

    client_id: str
    connection: SessionConnection | None = None
    subscriptions: dict[str, int] = field(default_factory=dict)
    """Topic filters, each with the granted QoS."""
    pending: dict[int, PendingDelivery] = field(default_factory=dict)
    """By packet ID."""
    pending_bytes: int = 0
    received: set[int] = field(default_factory=set)
    """Packet IDs of QoS 2 messages that were routed and not released: a repeated one is not routed again (4.3.3)."""
    _last_id: int = 0

    def granted_qos(self, topic: str) -> int | None:
        """Return the highest QoS of the subscriptions that match ``topic``: overlapping filters count once."""
        matching = (qos for topic_filter, qos in self.subscriptions.items() if matches(topic_filter, topic))
        return max(matching, default=None)

    def add_pending(self, message: Message) -> int | None:
        """Keep ``message`` until it is acknowledged; return its packet ID, or ``None`` if the session is full."""
        is_full = self.pending_bytes + len(message.payload) > MAX_PENDING_BYTES
        if is_full or len(self.pending) >= MAX_PENDING:
            return None
        while True:
            self._last_id = self._last_id % _MAX_PACKET_ID + 1
            if self._last_id not in self.pending:
                break
        self.pending[self._last_id] = PendingDelivery(message)
        self.pending_bytes += len(message.payload)
        return self._last_id

    def remove_pending(self, packet_id: int) -> None:
        """Forget a message that was acknowledged or may no longer be delivered."""
        if delivery := self.pending.pop(packet_id, None):
            self.pending_bytes -= len(delivery.message.payload)
