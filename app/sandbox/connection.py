"""The connections of the MQTT broker: one from its CONNECT to its end, and the listener that accepts and drops them.

A client that is denied something gets the reason on ``$SYS/tokenInvalidNotice`` and is disconnected (FACTS 2).
Whatever a peer sends, the worst effect is the end of its own connection.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import suppress
from typing import Final

import structlog

from app.sandbox import codec
from app.sandbox.access import AccessDenied, ConnectionAccess
from app.sandbox.broker import MqttBroker
from app.sandbox.packet_handler import ClientDisconnected, PacketHandler
from app.sandbox.packet_stream import (
    MalformedPacket,
    PacketStream,
    ReadingStopped,
    UnsupportedVersion,
    check_version,
)
from app.sandbox.packets import Connect, Message
from app.sandbox.session import MqttSession
from app.sandbox.sign_in import BrokerSignIn, ConnectRefused

log = structlog.get_logger("sandbox.broker")

CONNECT_DEADLINE_S: Final = 10.0
KEEP_ALIVE_FACTOR: Final = 1.5
NOTICE_AHEAD_MS: Final = 5 * 60 * 1000
"""How long before its expiry a token is announced to expire."""

EXPIRE_NOTICE: Final = "$SYS/tokenExpireNotice"
INVALID_NOTICE: Final = "$SYS/tokenInvalidNotice"


class BrokerConnection:
    """One TCP connection to the broker."""

    access: ConnectionAccess
    """What the client may do; set when it has signed in."""

    def __init__(self, broker: MqttBroker, sign_in: BrokerSignIn, stream: PacketStream) -> None:
        self._broker = broker
        self._sign_in = sign_in
        self._stream = stream
        self._session: MqttSession | None = None
        self._keep_session = False
        self._will: Message | None = None
        self._has_ended = False
        self._announced: set[str] = set()
        """The tokens, by SHA-256, whose coming expiry the client has been notified of."""

    async def serve(self) -> None:
        """Serve the connection until it ends. Raises nothing for what a peer does."""
        try:
            await self._handle_packets()
        except (ConnectRefused, UnsupportedVersion) as refusal:
            self._stream.send(refusal.connack)
            self.end(f"refused: {refusal}")
        except AccessDenied as denied:
            self._deny(denied)
        except MalformedPacket as error:
            self.end(f"malformed: {error}")
        except ClientDisconnected:
            self._will = None  # [MQTT-3.14.4-3]
            self.end("disconnected")
        except ReadingStopped:
            pass
        except TimeoutError:
            self.end("keep-alive or connect deadline exceeded")
        except (OSError, asyncio.IncompleteReadError):
            self.end("lost")
        except sqlite3.Error as error:
            self.end(f"database failed: {error}")  # the message was not acknowledged
        finally:
            self.end("stopped")
            await self._publish_will()
            await self._stream.close()

    def end(self, reason: str) -> None:
        """End the connection at once; what was sent before is still delivered. A second call does nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        log.info("connection_ended", reason=reason, client_id=self._client_id)
        if self._session is not None:
            self._broker.detach(self._session, keep=self._keep_session)
        self._stream.stop_reading()

    def abort(self) -> None:
        """Close the connection at once; what waits to be sent is lost."""
        self._stream.abort()

    def drop_unresponsive(self) -> None:
        """Drop a client that does not acknowledge; ``serve`` then ends as for a lost connection."""
        log.info("client_dropped", reason="does not acknowledge", client_id=self._client_id)
        self.abort()

    def check_tokens(self) -> int | None:
        """End the connection if its sign-in is no longer valid; announce once that a token expires soon.

        Returns the time in milliseconds at which to check again, ``None`` for never.
        """
        try:
            self.access.require_valid()
        except AccessDenied as denied:
            self._deny(denied)
            return None
        now_ms = self._sign_in.clock.now_ms()
        due_ms = []
        for type_, token in self.access.tokens.items():
            announce_at_ms = token.expires_at_ms - NOTICE_AHEAD_MS
            if token.sha256 not in self._announced and announce_at_ms <= now_ms:
                self._announced.add(token.sha256)
                self._notify(EXPIRE_NOTICE, {"expireTime": token.expires_at_ms, "type": type_.value})
            due_ms.append(token.expires_at_ms if token.sha256 in self._announced else announce_at_ms)
        return min(due_ms, default=None)

    def send_message(self, message: Message, packet_id: int | None, *, duplicate: bool = False) -> None:
        """Send a message that the caller has authorized."""
        self._stream.send(codec.encode_publish(message, packet_id, duplicate=duplicate))

    @property
    def _client_id(self) -> str | None:
        return None if self._session is None else self._session.client_id

    async def _handle_packets(self) -> None:
        connect = await self._read_connect()
        # No await from here to the answer: nothing about the client ID is changed before the client has signed in.
        self.access = self._sign_in.authenticate(connect)
        session = self._start_session(connect)
        handler = PacketHandler(self._broker, session, self.access, send=self._stream.send)
        keep_alive_s = connect.keep_alive_s * KEEP_ALIVE_FACTOR if connect.keep_alive_s else None
        while True:
            frame = await self._stream.read_packet(keep_alive_s)
            await handler.handle(await codec.decode(frame))
            await asyncio.sleep(0)  # a client that sends a lot must not keep the others waiting

    async def _read_connect(self) -> Connect:
        frame = await self._stream.read_packet(CONNECT_DEADLINE_S)
        check_version(frame)
        connect = await codec.decode(frame)
        if not isinstance(connect, Connect):
            raise MalformedPacket("the first packet is not a CONNECT")
        return connect

    def _start_session(self, connect: Connect) -> MqttSession:
        self._keep_session = not connect.clean_session
        session, is_present = self._broker.attach(self, connect.client_id, clean=connect.clean_session)
        self._session = session
        self._will = connect.will
        log.info("connected", client_id=connect.client_id, tokens=",".join(self.access.tokens), resumed=is_present)
        self._stream.send(codec.encode_connack(0, session_present=is_present))
        self._broker.redeliver(session)
        return session

    async def _publish_will(self) -> None:
        """Publish the will, unless the client sent DISCONNECT or may no longer publish it (section 3.1.2.5)."""
        if self._will is not None and self.access.may_write(self._will.topic):
            with suppress(sqlite3.Error):  # it was routed, and there is no client to notify that it was not retained
                await self._broker.publish(self._will)

    def _deny(self, denied: AccessDenied) -> None:
        """Send the reason to the client, then end the connection."""
        log.info("access_denied", client_id=self._client_id, code=denied.code, type=denied.type.value)
        self._notify(INVALID_NOTICE, {"code": denied.code, "type": denied.type.value})
        self.end(f"denied: {denied}")

    def _notify(self, topic: str, body: dict[str, int | str]) -> None:
        self.send_message(Message(topic, json.dumps(body, separators=(",", ":")).encode()), None)


class BrokerListener:
    """Accepts connections, and owns the task of each."""

    def __init__(self, broker: MqttBroker, sign_in: BrokerSignIn) -> None:
        self._broker = broker
        self._sign_in = sign_in
        self._serving: dict[asyncio.Task[None], BrokerConnection] = {}
        self._accepts_from_s = 0.0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection, or drop it at once while the broker is down."""
        if asyncio.get_running_loop().time() < self._accepts_from_s:
            writer.transport.abort()
            return
        connection = BrokerConnection(self._broker, self._sign_in, PacketStream(reader, writer))
        task = asyncio.create_task(connection.serve())
        self._serving[task] = connection
        task.add_done_callback(lambda done: self._serving.pop(done, None))

    async def restart(self, *, down_s: float, forget_sessions: bool) -> int:
        """Drop every connection, accept none for ``down_s`` seconds, and return how many were dropped.

        As in a cluster, persistent sessions stay with their pending messages, and so do retained messages; with
        ``forget_sessions`` only the latter stay. Wills are published, as for any lost connection.
        """
        self._accepts_from_s = asyncio.get_running_loop().time() + down_s
        dropped = await self._drop_all("the broker restarts")
        if forget_sessions:
            self._broker.forget_absent_sessions()
        return dropped

    async def stop(self) -> None:
        """Drop every connection, and return when their tasks have ended."""
        await self._drop_all("the sandbox stops")

    async def _drop_all(self, reason: str) -> int:
        tasks = list(self._serving)
        for connection in list(self._serving.values()):
            connection.end(reason)
            connection.abort()
        await asyncio.gather(*tasks)
        return len(tasks)
