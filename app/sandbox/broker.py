"""The broker's memory: sessions by client ID, routing, take-over, retained messages, and when tokens run out.

A session (MQTT 3.1.1 section 3.1.2.4) is reached only through a connection that has authenticated. Messages are
delivered with QoS 0 or 1: a subscription for QoS 2 is granted 1, which section 3.8.4 allows, and spares the third
handshake; publishers may use QoS 2. Sessions live as long as the process; retained messages survive it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from app.model.topics import matches
from app.sandbox.packets import Message
from app.sandbox.state import Retained, State, Token

if TYPE_CHECKING:
    from app.sandbox.access import Access
    from app.sandbox.clock import Clock

log = structlog.get_logger("sandbox.broker")

MAX_SUBSCRIPTIONS: Final = 30
"""Per client; the cloud's limit."""

MAX_HELD: Final = 10_000
MAX_HELD_BYTES: Final = 4 * 1024 * 1024
"""QoS 1 messages that one session may hold without an acknowledgement; beyond, a client is cut, and one that is away
loses the newest."""

MAX_AWAY: Final = 1000
"""Sessions kept for clients that are away; beyond, the longest away is forgotten."""

_MAX_DELIVERED_QOS: Final = 1
_REFUSED_SUBSCRIPTION: Final = 0x80
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
        """End it if a token is no longer valid; return when to look again."""

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


class Broker:
    """Sessions, and who is connected."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._due = asyncio.Event()
        clock.on_move(self.look_again)

    def attach(self, connection: Client, client_id: str, *, clean: bool) -> tuple[Session, bool]:
        """Give ``connection`` the session of ``client_id``; return it and whether it was there before.

        To be called after authentication only, and without a pause after it: until here a CONNECT has changed
        nothing. Who may take over a client ID: whoever signs in with valid tokens of this instance, as at the cloud,
        whose tokens are not bound to a client ID (FACTS 8). A binding invented here would let a fleet pass that the
        cloud would not let pass. What is inherited is cut to what the newcomer's own tokens permit, and each delivery
        is authorised by them again.
        """
        old = self._sessions.get(client_id)
        if old is not None and old.connection is not None:
            old.connection.end("taken over")  # removes a session that was clean
        kept = self._sessions.pop(client_id, None)
        if clean or kept is None:
            session, present = Session(client_id), False
        else:
            session, present = kept, True
            for wide in [wide for wide in session.subscriptions if not connection.access.may_read(wide)]:
                del session.subscriptions[wide]
        session.connection = connection
        self._sessions[client_id] = session
        self.look_again()
        return session, present

    def detach(self, session: Session, *, keep: bool) -> None:
        """The session's connection has ended; ``keep`` is false for a clean session, which ends with it."""
        session.connection = None
        self._sessions.pop(session.client_id, None)
        if keep:
            self._sessions[session.client_id] = session  # to the end of the line of those away
            away = [other for other in self._sessions.values() if other.connection is None]
            if len(away) > MAX_AWAY:
                del self._sessions[away[0].client_id]

    def forget_sessions(self) -> None:
        """Forget every session whose client is away, with what is held for it."""
        self._sessions = {name: session for name, session in self._sessions.items() if session.connection is not None}

    def connections(self) -> list[Client]:
        """Return every authenticated connection."""
        return [session.connection for session in self._sessions.values() if session.connection is not None]

    def subscribe(self, session: Session, filters: tuple[tuple[str, int], ...]) -> list[int]:
        """Add subscriptions the caller has authorised; return the SUBACK codes."""
        codes = []
        for wide, qos in filters:
            if wide not in session.subscriptions and len(session.subscriptions) >= MAX_SUBSCRIPTIONS:
                codes.append(_REFUSED_SUBSCRIPTION)
                continue
            session.subscriptions[wide] = min(qos, _MAX_DELIVERED_QOS)
            codes.append(session.subscriptions[wide])
        return codes

    def send_retained(self, session: Session, wide: str, granted: int) -> None:
        """Deliver the retained messages of one filter that this very session has just subscribed to."""
        for topic, retained in list(self._state.retained.items()):
            if matches(wide, topic):
                qos = min(granted, retained.qos)
                self._deliver(session, Message(topic, retained.payload, qos, retain=True))

    async def publish(self, message: Message) -> None:
        """Route an authorised message to whoever subscribes to it, and keep it if it is to be retained."""
        for session in list(self._sessions.values()):
            granted = session.granted(message.topic)
            if granted is not None:
                self._deliver(session, Message(message.topic, message.payload, min(granted, message.qos)))
        if message.retain:
            await self._state.retain(message.topic, Retained(min(message.qos, _MAX_DELIVERED_QOS), message.payload))

    def redeliver(self, session: Session) -> None:
        """Send what a resumed session still holds (section 4.4), as far as its new tokens permit."""
        for packet_id, held in list(session.held.items()):
            if session.connection is None:
                return
            if not session.connection.access.may_read(held.message.topic):
                session.settle(packet_id)
                continue
            session.connection.send_message(held.message, packet_id, duplicate=held.sent)
            held.sent = True

    def _deliver(self, session: Session, message: Message) -> None:
        connection = session.connection
        if connection is not None and not connection.access.may_read(message.topic):
            return  # subscribing was permitted once; delivering is judged now
        packet_id = session.hold(message) if message.qos else None
        if connection is None:
            return
        if message.qos and packet_id is None:
            connection.cut("does not acknowledge")
            return
        connection.send_message(message, packet_id)
        if packet_id is not None:
            session.held[packet_id].sent = True

    def revoked(self, token: Token) -> None:
        """Cut every connection that holds ``token`` now; one that has replaced it meanwhile goes on."""
        for connection in self.connections():
            if token in connection.access.tokens.values():
                connection.check_tokens()

    def look_again(self) -> None:
        """Have ``watch`` look at once: the clock has moved, or there is a token it has not seen."""
        self._due.set()

    async def watch(self) -> None:
        """Cut connections whose tokens run out, and tell them before, at the moment it is due. Runs until cancelled."""
        while True:
            self._due.clear()
            due_ms = min((connection.check_tokens() for connection in self.connections()), default=None)
            wait_s = None if due_ms is None else max(0.0, (due_ms - self._clock.now_ms()) / 1000)
            try:
                async with asyncio.timeout(wait_s):
                    await self._due.wait()
            except TimeoutError:
                pass
