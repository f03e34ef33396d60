"""What a signed-in client's packets do (MQTT 3.1.1 chapter 3), without any input or output.

Each packet is authorized at the moment it is handled. A packet that is denied has no effect and no acknowledgment
(FACTS 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from amqtt.mqtt.packet import PUBACK, PUBCOMP, PUBREC, UNSUBACK

from app.sandbox import codec
from app.sandbox.access import ConnectionAccess, parse_token_upload
from app.sandbox.broker import MqttBroker
from app.sandbox.packet_stream import MalformedPacket
from app.sandbox.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from app.sandbox.session import MqttSession

log = structlog.get_logger("sandbox.broker")

UPLOAD_TOPIC: Final = "$SYS/uploadToken"

_EXACTLY_ONCE: Final = 2


class ClientDisconnected(Exception):
    """The client sent DISCONNECT."""


class PacketHandler:
    """Handles the packets of one connection, and hands the answers to ``send``."""

    def __init__(
        self, broker: MqttBroker, session: MqttSession, access: ConnectionAccess, *, send: Callable[[bytes], None]
    ) -> None:
        self._broker = broker
        self._session = session
        self._access = access
        self._send = send

    async def handle(self, packet: Packet) -> None:
        """Carry out a packet and answer it.

        Raises ``AccessDenied``, ``ClientDisconnected``, ``MalformedPacket``, and ``sqlite3.Error`` if a message cannot
        be retained.
        """
        match packet:
            case Publish():
                await self._publish(packet)
            case Pubrel(packet_id=packet_id):
                self._session.received.discard(packet_id)
                self._send(codec.encode_acknowledgment(PUBCOMP, packet_id))
            case Puback(packet_id=packet_id):
                self._session.remove_pending(packet_id)
            case Subscribe():
                self._subscribe(packet)
            case Unsubscribe():
                self._unsubscribe(packet)
            case Pingreq():
                self._send(codec.encode_pingresp())
            case Disconnect():
                raise ClientDisconnected
            case Connect():
                raise MalformedPacket("a second CONNECT [MQTT-3.1.0-2]")

    async def _publish(self, packet: Publish) -> None:
        message = packet.message
        if message.topic == UPLOAD_TOPIC:
            self._upload_token(message.payload)
        else:
            self._access.require_write(message.topic)
            if message.qos != _EXACTLY_ONCE:
                await self._broker.publish(message)
            elif packet.packet_id not in self._session.received:
                self._session.received.add(packet.packet_id)
                await self._broker.publish(message)
        if message.qos:
            kind = PUBREC if message.qos == _EXACTLY_ONCE else PUBACK
            self._send(codec.encode_acknowledgment(kind, packet.packet_id))

    def _upload_token(self, payload: bytes) -> None:
        """Use an uploaded token from now on; its message is acknowledged after that. Raises ``AccessDenied``."""
        self._access.require_valid()
        type_, token = parse_token_upload(payload)
        self._access.replace_token(type_, token)
        log.info("token_uploaded", client_id=self._session.client_id, type=type_.value)
        self._broker.schedule_check()

    def _subscribe(self, packet: Subscribe) -> None:
        for topic_filter, _ in packet.filters:
            self._access.require_read(topic_filter)
        codes = self._broker.add_subscriptions(self._session, packet.filters)
        self._send(codec.encode_suback(packet.packet_id, codes))
        for (topic_filter, _), code in zip(packet.filters, codes, strict=True):
            if topic_filter in self._session.subscriptions:
                self._broker.send_retained(self._session, topic_filter, code)

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        for topic_filter in packet.filters:
            self._session.subscriptions.pop(topic_filter, None)
        self._send(codec.encode_acknowledgment(UNSUBACK, packet.packet_id))
