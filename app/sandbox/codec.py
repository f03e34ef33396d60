"""MQTT 3.1.1 packets: amqtt's codec, and then what it forgives and the standard does not.

amqtt 0.12.1 reads a string that is no UTF-8 as its Python ``repr``, leaves a missing field empty, and ignores bytes
behind the last one. MQTT's encoding of a packet is unique, so one rule catches all three: a packet must encode again to
the very bytes it came from. Packets of ours carry secrets in secret types; amqtt's own objects, whose ``repr`` shows
passwords, do not leave this module.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt import packet_dict
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
    MQTTPacket,
)
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.suback import SubackPacket

from app.model.secrets import Secret
from app.sandbox.framing import Frame, Malformed
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

_FLAGS: Final = {CONNECT: 0, PUBACK: 0, PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2, PINGREQ: 0, DISCONNECT: 0}
"""The flags a packet must have (section 2.2.2); those of PUBLISH mean something."""

_Raw: TypeAlias = MQTTPacket[Any, Any, Any]


async def decode(frame: Frame) -> Packet:
    """Decode a client's packet. Raises ``Malformed``."""
    if frame.kind not in _READ or (frame.kind in _FLAGS and _FLAGS[frame.kind] != frame.flags):
        raise Malformed("a packet type or flags that no client may send")
    return _READ[frame.kind](frame, await _decode(frame))


async def _decode(frame: Frame) -> _Raw:
    header = MQTTFixedHeader(frame.kind, frame.flags, len(frame.body))
    try:
        packet = await packet_dict[frame.kind].from_stream(BufferReader(frame.body), fixed_header=header)
        if isinstance(packet, ConnectPacket) and packet.client_id_is_random:
            packet.client_id = ""  # amqtt makes one up; which are allowed is for the broker to say
        again = packet.to_bytes()
    except (AMQTTError, CodecError, MQTTError, NoDataError, struct.error, ValueError) as error:
        raise Malformed("undecodable") from error
    if again[len(again) - len(frame.body) :] != frame.body or header.remaining_length != len(frame.body):
        raise Malformed("not the encoding of any packet")
    return packet


def _connect(_: Frame, packet: _Raw) -> Connect:
    header, payload = packet.variable_header, packet.payload
    if header.reserved_flag:
        raise Malformed("reserved flag set [MQTT-3.1.2-3]")
    if header.password_flag and not header.username_flag:
        raise Malformed("password without user name [MQTT-3.1.2-22]")
    if header.username_flag != (payload.username is not None) or header.password_flag != (payload.password is not None):
        raise Malformed("a flagged field is missing")
    will = None
    if header.will_flag:
        if payload.will_topic is None or payload.will_message is None:
            raise Malformed("the will is missing")
        will = Message(
            _topic(payload.will_topic), payload.will_message, _qos(header.will_qos), retain=header.will_retain_flag
        )
    elif header.will_qos or header.will_retain_flag:
        raise Malformed("flags of a will without a will [MQTT-3.1.2-13]")
    return Connect(
        client_id=_text(payload.client_id or ""),
        clean_session=header.clean_session_flag,
        keep_alive_s=header.keep_alive,
        username=None if payload.username is None else _text(payload.username),
        password=None if payload.password is None else Secret(payload.password),
        will=will,
    )


def _publish(frame: Frame, packet: _Raw) -> Publish:
    qos = _qos((frame.flags >> 1) & 3)
    if frame.flags & 8 and not qos:
        raise Malformed("a duplicate with QoS 0 [MQTT-3.3.1-2]")
    message = Message(_topic(packet.variable_header.topic_name), packet.payload.data, qos, retain=bool(frame.flags & 1))
    return Publish(message, _packet_id(packet) if qos else 0)


def _subscribe(_: Frame, packet: _Raw) -> Subscribe:
    texts = _filters([topic for topic, _ in packet.payload.topics])
    return Subscribe(
        _packet_id(packet), tuple(zip(texts, (_qos(qos) for _, qos in packet.payload.topics), strict=True))
    )


def _packet_id(packet: _Raw) -> int:
    packet_id: int = packet.variable_header.packet_id
    if packet_id == 0:
        raise Malformed("packet ID 0 [MQTT-2.3.1-1]")
    return packet_id


def _qos(qos: int) -> int:
    if qos not in (0, 1, 2):
        raise Malformed("a QoS that is not 0, 1 or 2 [MQTT-3.3.1-4]")
    return qos


def _text(text: str) -> str:
    if "\0" in text:
        raise Malformed("NUL in a text [MQTT-1.5.3-2]")
    return text


def _topic(text: str) -> str:
    if not text or "+" in text or "#" in text:
        raise Malformed("an empty topic, or one with a wildcard [MQTT-3.3.2-2]")
    return _text(text)


def _filters(texts: list[str]) -> list[str]:
    if not texts:
        raise Malformed("no topic filter [MQTT-3.8.3-3]")
    for text in texts:
        levels = _text(text).split("/")
        wildcards_fill_levels = all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels)
        if not text or not wildcards_fill_levels or "#" in levels[:-1]:
            raise Malformed("a malformed topic filter [MQTT-4.7.1]")
    return texts


_READ: Final[Mapping[int, Callable[[Frame, _Raw], Packet]]] = {
    CONNECT: _connect,
    PUBLISH: _publish,
    PUBACK: lambda _, packet: Puback(_packet_id(packet)),
    PUBREL: lambda _, packet: Pubrel(_packet_id(packet)),
    SUBSCRIBE: _subscribe,
    UNSUBSCRIBE: lambda _, packet: Unsubscribe(_packet_id(packet), tuple(_filters(packet.payload.topics))),
    PINGREQ: lambda _, __: Pingreq(),
    DISCONNECT: lambda _, __: Disconnect(),
}
"""What a client may send to a broker that never delivers with QoS 2."""


def connack(code: int, *, session_present: bool = False) -> bytes:
    """Encode CONNACK (section 3.2)."""
    return bytes(ConnackPacket.build(int(session_present), code).to_bytes())


def publish(message: Message, packet_id: int | None, *, duplicate: bool = False) -> bytes:
    """Encode PUBLISH; ``packet_id`` with QoS 1 alone."""
    packet = PublishPacket.build(message.topic, message.payload, packet_id, duplicate, message.qos, message.retain)
    return bytes(packet.to_bytes())


def suback(packet_id: int, codes: list[int]) -> bytes:
    """Encode SUBACK (section 3.9)."""
    return bytes(SubackPacket.build(packet_id, codes).to_bytes())


def acknowledgement(kind: int, packet_id: int) -> bytes:
    """Encode PUBACK, PUBREC, PUBCOMP or UNSUBACK, which are a packet ID and nothing else."""
    return bytes(packet_dict[kind].build(packet_id).to_bytes())


def pingresp() -> bytes:
    """Encode PINGRESP."""
    return bytes(PingRespPacket.build().to_bytes())
