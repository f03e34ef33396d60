"""One MQTT connection, from its CONNECT to its end.

Every step is authorised at the moment it is taken. What is refused is not acknowledged: the client is told why on
``$SYS/tokenInvalidNotice`` and cut (FACTS 2). Whatever a peer sends, the worst that happens is the end of its own
connection.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from amqtt.mqtt.packet import PUBACK, PUBCOMP, PUBREC, UNSUBACK

from app.sandbox import codec
from app.sandbox.access import Access, Denied, parse_upload
from app.sandbox.clock import Clock
from app.sandbox.framing import Malformed, UnsupportedVersion, check_version
from app.sandbox.packets import (
    Connect,
    Disconnect,
    Message,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from app.sandbox.signin import Refused, SignIn
from app.sandbox.wire import Wire, Woken

if TYPE_CHECKING:
    from app.sandbox.broker import Broker
    from app.sandbox.remembered import Session

log = structlog.get_logger("sandbox.broker")

CONNECT_DEADLINE_S: Final = 10.0
KEEP_ALIVE_FACTOR: Final = 1.5
NOTICE_AHEAD_MS: Final = 5 * 60 * 1000

_EXACTLY_ONCE: Final = 2

UPLOAD: Final = "$SYS/uploadToken"
EXPIRE_NOTICE: Final = "$SYS/tokenExpireNotice"
INVALID_NOTICE: Final = "$SYS/tokenInvalidNotice"


class _Over(Exception):
    """The client has said DISCONNECT."""


class Connection:
    """One TCP connection."""

    access: Access
    _session: Session

    def __init__(
        self,
        broker: Broker,
        sign_in: SignIn,
        wire: Wire,
    ) -> None:
        self._broker = broker
        self._sign_in = sign_in
        self._clock: Clock = sign_in.clock
        self._wire = wire
        self._attached = False
        self._ended = False
        self._keep_session = False
        self._will: Message | None = None
        self._told: set[str] = set()
        """Tokens of which the client has been told that they expire soon."""

    async def serve(self) -> None:
        """Serve the connection until it ends. Raises nothing for what a peer does."""
        try:
            keep_alive_s = await self._open()
            while True:
                frame = await self._wire.read(keep_alive_s)
                await self._handle(await codec.decode(frame))
                await asyncio.sleep(0)  # a client with much to say must not keep the others from being heard
        except (Refused, UnsupportedVersion) as refusal:
            self._wire.send(refusal.connack)
            self.end(f"refused: {refusal}")
        except Denied as denied:
            self._tell(denied)
        except Malformed as error:
            self.end(f"malformed: {error}")
        except _Over:
            self._will = None  # [MQTT-3.14.4-3]
            self.end("disconnected")
        except Woken:
            pass
        except TimeoutError:
            self.end("silent for too long")
        except (OSError, asyncio.IncompleteReadError):
            self.end("lost")
        except sqlite3.Error as error:
            self.end(f"state out of reach: {error}")  # and nothing was acknowledged
        finally:
            self.end("stopped")
            await self._publish_will()
            await self._wire.close()

    def end(self, why: str) -> None:
        """End the connection, at once and for every purpose but its last words. A second time nothing happens."""
        if self._ended:
            return
        self._ended = True
        client_id = self._session.client_id if self._attached else None
        log.info("connection ended", why=why, client_id=client_id)
        if self._attached:
            self._broker.detach(self._session, keep=self._keep_session)
        self._wire.wake()

    def cut(self, why: str) -> None:
        """Drop a client that does not take what it is sent; ``serve`` then ends as for a lost connection."""
        log.info("connection cut", why=why, client_id=self._session.client_id)
        self._wire.abort()

    def abort(self) -> None:
        """Close at once, last words or not."""
        self._wire.abort()

    def check_tokens(self) -> float:
        """Cut the connection if what it signed in with is no longer valid; tell it once if a token expires soon.

        Returns the time in milliseconds when to look again.
        """
        try:
            self.access.require_valid()
        except Denied as denied:
            self._tell(denied)
            return float("inf")
        due_ms = float("inf")
        for type_, token in self.access.tokens.items():
            tell_at_ms = token.expires_at_ms - NOTICE_AHEAD_MS
            if token.sha256 in self._told:
                due_ms = min(due_ms, token.expires_at_ms)
            elif tell_at_ms > self._clock.now_ms():
                due_ms = min(due_ms, tell_at_ms)
            else:
                self._told.add(token.sha256)
                self._notify(EXPIRE_NOTICE, {"expireTime": token.expires_at_ms, "type": type_.value})
                due_ms = min(due_ms, token.expires_at_ms)
        return due_ms

    def send_message(self, message: Message, packet_id: int | None, *, duplicate: bool = False) -> None:
        """Send a message that the caller has authorised."""
        self._wire.send(codec.publish(message, packet_id, duplicate=duplicate))

    # The steps of a connection, in their order.

    async def _open(self) -> float | None:
        """Read CONNECT, authenticate, answer. Returns the deadline for each packet in seconds."""
        frame = await self._wire.read(CONNECT_DEADLINE_S)
        check_version(frame)
        connect = await codec.decode(frame)
        if not isinstance(connect, Connect):
            raise Malformed("the first packet is no CONNECT")
        self.access = self._sign_in.authenticate(connect)
        # From here on the peer is who it says. Nothing of the client ID's session was touched before this line.
        self._keep_session = not connect.clean_session
        self._session, present = self._broker.attach(self, connect.client_id, clean=connect.clean_session)
        self._attached = True
        self._will = connect.will
        log.info("connected", client_id=connect.client_id, tokens=",".join(self.access.tokens), resumed=present)
        self._wire.send(codec.connack(0, session_present=present))
        self._broker.redeliver(self._session)
        return connect.keep_alive_s * KEEP_ALIVE_FACTOR if connect.keep_alive_s else None

    async def _handle(self, packet: Packet) -> None:
        match packet:
            case Publish():
                await self._publish(packet)
            case Pubrel(packet_id=packet_id):
                self._session.received.discard(packet_id)
                self._wire.send(codec.acknowledgement(PUBCOMP, packet_id))
            case Puback(packet_id=packet_id):
                self._session.settle(packet_id)
            case Subscribe():
                self._subscribe(packet)
            case Unsubscribe():
                for wide in packet.filters:
                    self._session.subscriptions.pop(wide, None)
                self._wire.send(codec.acknowledgement(UNSUBACK, packet.packet_id))
            case Pingreq():
                self._wire.send(codec.pingresp())
            case Disconnect():
                raise _Over
            case Connect():
                raise Malformed("a second CONNECT [MQTT-3.1.0-2]")

    async def _publish(self, packet: Publish) -> None:
        message = packet.message
        if message.topic == UPLOAD:
            self._upload(message.payload)
        else:
            self.access.require_write(message.topic)
            if message.qos != _EXACTLY_ONCE:
                await self._broker.publish(message)
            elif packet.packet_id not in self._session.received:
                self._session.received.add(packet.packet_id)
                await self._broker.publish(message)
        if message.qos:
            kind = PUBREC if message.qos == _EXACTLY_ONCE else PUBACK
            self._wire.send(codec.acknowledgement(kind, packet.packet_id))

    def _upload(self, payload: bytes) -> None:
        """Take a new token in place; the caller acknowledges once it has taken effect. Raises ``Denied``."""
        self.access.require_valid()
        type_, token = parse_upload(payload)
        self.access.put(type_, token)
        log.info("token uploaded", client_id=self._session.client_id, type=type_.value)
        self._broker.look_again()

    def _subscribe(self, packet: Subscribe) -> None:
        for wide, _ in packet.filters:
            self.access.require_read(wide)
        codes = self._broker.subscribe(self._session, packet.filters)
        self._wire.send(codec.suback(packet.packet_id, codes))
        for (wide, _), code in zip(packet.filters, codes, strict=True):
            if wide in self._session.subscriptions:
                self._broker.send_retained(self._session, wide, code)

    async def _publish_will(self) -> None:
        """Publish the will if the client did not say goodbye and its tokens still permit it (section 3.1.2.5)."""
        if self._will is not None and self.access.may_write(self._will.topic):
            with suppress(sqlite3.Error):  # it was routed; a will has nobody left to be told that it was not retained
                await self._broker.publish(self._will)

    def _tell(self, denied: Denied) -> None:
        """Say why, then end."""
        log.info("denied", client_id=self._session.client_id, code=denied.code, type=denied.type.value)
        self._notify(INVALID_NOTICE, {"code": denied.code, "type": denied.type.value})
        self.end(f"denied: {denied}")

    def _notify(self, topic: str, body: dict[str, int | str]) -> None:
        self._wire.send(codec.publish(Message(topic, json.dumps(body, separators=(",", ":")).encode()), None))
