"""The MQTT broker without its connections: sessions by client ID, routing, retained messages, and token checks.

A session (MQTT 3.1.1 section 3.1.2.4) can be used only through a connection that has signed in. Messages are delivered
with QoS 0 or 1: a subscription with QoS 2 is granted 1, which section 3.8.4 allows. Publishers may use QoS 2. Sessions
end with the process; retained messages are stored.

A message to ``PARENT/p2p/CLIENT`` is delivered to that client only. The client needs no subscription, and subscriptions
of others do not match it; it is never retained. That the receiver needs no resource either is inferred (FACTS 1 leaves
it open): the sender needs a W token that covers the topic.
"""

from __future__ import annotations

import asyncio
from typing import Final

from app.model.devices import ClientId, group_id
from app.model.topics import matches
from app.sandbox.access import point_to_point_receiver
from app.sandbox.packets import Message
from app.sandbox.session import MqttSession, SessionConnection
from app.sandbox.state import RetainedMessage, SandboxClock, SandboxState
from app.sandbox.token_table import SandboxToken

MAX_SUBSCRIPTIONS: Final = 30
"""Per client; the cloud's limit."""

MAX_ABSENT_SESSIONS: Final = 1000
"""Sessions kept for absent clients. Beyond this the one that has been absent longest is forgotten."""

_MAX_DELIVERED_QOS: Final = 1
_REFUSED_SUBSCRIPTION: Final = 0x80


class MqttBroker:
    """All sessions, and the connections that use them."""

    def __init__(self, state: SandboxState, clock: SandboxClock) -> None:
        self._state = state
        self._clock = clock
        self._sessions: dict[str, MqttSession] = {}
        self._check_now = asyncio.Event()
        clock.on_move(self.schedule_check)

    def attach(self, connection: SessionConnection, client_id: str, *, clean: bool) -> tuple[MqttSession, bool]:
        """Give ``connection`` the session of ``client_id``; return it, and whether it existed before.

        Call it after the sign-in only, and without an ``await`` in between: until here a CONNECT has changed nothing.
        A client takes over a client ID by signing in with any valid tokens of this instance, as at the cloud, whose
        tokens are not bound to a client ID (FACTS 8). The subscriptions that it inherits are reduced to what its own
        tokens permit, and each delivery is authorized by them again.
        """
        existing = self._sessions.get(client_id)
        if existing is not None and existing.connection is not None:
            existing.connection.end("taken over")  # removes the session if it was a clean one
        kept = self._sessions.pop(client_id, None)
        if clean or kept is None:
            session, is_present = MqttSession(client_id), False
        else:
            session, is_present = kept, True
            denied = [filter_ for filter_ in session.subscriptions if not connection.access.may_read(filter_)]
            for topic_filter in denied:
                del session.subscriptions[topic_filter]
        session.connection = connection
        self._sessions[client_id] = session
        self.schedule_check()
        return session, is_present

    def detach(self, session: MqttSession, *, keep: bool) -> None:
        """End the use of a session by its connection; ``keep`` is false for a clean session, which is forgotten."""
        session.connection = None
        self._sessions.pop(session.client_id, None)
        if keep:
            self._sessions[session.client_id] = session  # the last one in the order of absence
            absent = [other for other in self._sessions.values() if other.connection is None]
            if len(absent) > MAX_ABSENT_SESSIONS:
                del self._sessions[absent[0].client_id]

    def forget_absent_sessions(self) -> None:
        """Forget the sessions of absent clients, with the messages that wait for them."""
        self._sessions = {name: session for name, session in self._sessions.items() if session.connection is not None}

    def forget_group(self, group: str) -> None:
        """End every connection of a deleted group, and forget the sessions of its clients."""
        self.check_connections()
        for client_id in [client_id for client_id in self._sessions if group_id(ClientId(client_id)) == group]:
            del self._sessions[client_id]

    def is_online(self, client_id: str) -> bool:
        """Return whether a client is connected under ``client_id`` now."""
        session = self._sessions.get(client_id)
        return session is not None and session.connection is not None

    def close_connection(self, client_id: str) -> None:
        """End the connection under ``client_id``, if there is one; the client may reconnect."""
        session = self._sessions.get(client_id)
        if session is not None and session.connection is not None:
            session.connection.end("closed by CloseConnection")

    def add_subscriptions(self, session: MqttSession, filters: tuple[tuple[str, int], ...]) -> list[int]:
        """Add subscriptions that the caller has authorized; return the SUBACK codes."""
        codes = []
        for topic_filter, qos in filters:
            if topic_filter not in session.subscriptions and len(session.subscriptions) >= MAX_SUBSCRIPTIONS:
                codes.append(_REFUSED_SUBSCRIPTION)
                continue
            session.subscriptions[topic_filter] = min(qos, _MAX_DELIVERED_QOS)
            codes.append(session.subscriptions[topic_filter])
        return codes

    def send_retained(self, session: MqttSession, topic_filter: str, granted: int) -> None:
        """Deliver the retained messages that match a filter to which this session has just subscribed."""
        for topic, retained in list(self._state.retained.items()):
            if matches(topic_filter, topic):
                qos = min(granted, retained.qos)
                _deliver(session, Message(topic, retained.payload, qos, retain=True))

    async def publish(self, message: Message) -> None:
        """Route a message that the caller has authorized, and store it if it is to be retained."""
        receiver = point_to_point_receiver(message.topic)
        if receiver is not None:
            if session := self._sessions.get(receiver):
                qos = min(message.qos, _MAX_DELIVERED_QOS)
                _deliver(session, Message(message.topic, message.payload, qos))
            return
        for session in list(self._sessions.values()):
            granted = session.granted_qos(message.topic)
            if granted is not None:
                _deliver(session, Message(message.topic, message.payload, min(granted, message.qos)))
        if message.retain:
            retained = RetainedMessage(min(message.qos, _MAX_DELIVERED_QOS), message.payload)
            await self._state.retain_message(message.topic, retained)

    def redeliver(self, session: MqttSession) -> None:
        """Send the pending messages of a resumed session (section 4.4) that its new tokens permit."""
        for packet_id, delivery in list(session.pending.items()):
            if session.connection is None:
                return
            if not _may_receive(session.connection, session, delivery.message.topic):
                session.remove_pending(packet_id)
                continue
            session.connection.send_message(delivery.message, packet_id, duplicate=delivery.sent)
            delivery.sent = True

    def check_connections(self) -> None:
        """End every connection whose group or credential no longer exists."""
        for connection in self._connections():
            connection.check_tokens()

    def check_connections_with(self, token: SandboxToken) -> None:
        """End every connection that uses the revoked ``token``; one that has replaced it continues."""
        for connection in self._connections():
            if token in connection.access.tokens.values():
                connection.check_tokens()

    def schedule_check(self) -> None:
        """Make ``run_checks`` check at once: the clock has moved, or there is a token that it has not checked."""
        self._check_now.set()

    async def run_checks(self) -> None:
        """Announce the expiry of tokens, and end connections whose tokens expire, in time. Runs until canceled."""
        while True:
            self._check_now.clear()
            due_ms = [due for connection in self._connections() if (due := connection.check_tokens()) is not None]
            wait_s = max(0.0, (min(due_ms) - self._clock.now_ms()) / 1000) if due_ms else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._check_now.wait()
            except TimeoutError:
                pass

    def _connections(self) -> list[SessionConnection]:
        return [session.connection for session in self._sessions.values() if session.connection is not None]


def _deliver(session: MqttSession, message: Message) -> None:
    connection = session.connection
    if connection is not None and not _may_receive(connection, session, message.topic):
        return  # the subscription was permitted when it was made; a delivery needs permission now
    packet_id = session.add_pending(message) if message.qos else None
    if connection is None:
        return
    if message.qos and packet_id is None:
        connection.drop_unresponsive()
        return
    connection.send_message(message, packet_id)
    if packet_id is not None:
        session.pending[packet_id].sent = True


def _may_receive(connection: SessionConnection, session: MqttSession, topic: str) -> bool:
    if point_to_point_receiver(topic) == session.client_id:
        return connection.access.is_valid()
    return connection.access.may_read(topic)
