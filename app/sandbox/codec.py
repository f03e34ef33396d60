"""MQTT 3.1.1 packets from bytes and to bytes, by amqtt's codec, with the checks of the standard that it lacks.

amqtt 0.12.1 reads a string that is not UTF-8 as its Python ``repr``, leaves a missing field empty, and ignores bytes
after the last field. The encoding of an MQTT packet is unique, so one check finds all three: a packet must encode to
the very bytes from which it was decoded. amqtt's objects, whose ``repr`` shows passwords, do not leave this module.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

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
from app.sandbox.packet_stream import MalformedPacket, PacketFrame
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

_AmqttPacket: TypeAlias = MQTTPacket[Any, Any, Any]


class _ClientPacket(NamedTuple):
    flags: int | None
    """The flags that the packet must have (section 2.2.2); ``None`` for PUBLISH, where they have a meaning."""
    read: Callable[[PacketFrame, _AmqttPacket], Packet]
    """Checks the fields and returns them. Raises ``MalformedPacket``."""


async def decode(frame: PacketFrame) -> Packet:
    """Decode a client's packet. Raises ``MalformedPacket``."""
    expected = _CLIENT_PACKETS.get(frame.kind)
    if expected is None or expected.flags not in (None, frame.flags):
        raise MalformedPacket("a client may not send a packet of this type with these flags")
    return expected.read(frame, await _decode_with_amqtt(frame))


async def _decode_with_amqtt(frame: PacketFrame) -> _AmqttPacket:
    header = MQTTFixedHeader(frame.kind, frame.flags, len(frame.body))
    try:
        packet = await packet_dict[frame.kind].from_stream(BufferReader(frame.body), fixed_header=header)
        if isinstance(packet, ConnectPacket) and packet.client_id_is_random:
            packet.client_id = ""  # amqtt generates one; the broker refuses an empty one
        encoded = packet.to_bytes()
    except (AMQTTError, CodecError, MQTTError, NoDataError, struct.error, ValueError) as error:
        raise MalformedPacket("not decodable") from error
    if encoded[len(encoded) - len(frame.body) :] != frame.body or header.remaining_length != len(frame.body):
        raise MalformedPacket("not the encoding of any packet")
    return packet


def _read_connect(_: PacketFrame, packet: _AmqttPacket) -> Connect:
    header, payload = packet.variable_header, packet.payload
    _check_connect_flags(header, payload)
    return Connect(
        client_id=_checked_text(payload.client_id or ""),
        clean_session=header.clean_session_flag,
        keep_alive_s=header.keep_alive,
        username=None if payload.username is None else _checked_text(payload.username),
        password=None if payload.password is None else Secret(payload.password),
        will=_read_will(header, payload),
    )


def _check_connect_flags(header: Any, payload: Any) -> None:
    if header.reserved_flag:
        raise MalformedPacket("reserved flag set [MQTT-3.1.2-3]")
    if header.password_flag and not header.username_flag:
        raise MalformedPacket("password without user name [MQTT-3.1.2-22]")
    if header.username_flag != (payload.username is not None) or header.password_flag != (payload.password is not None):
        raise MalformedPacket("user name or password missing")


def _read_will(header: Any, payload: Any) -> Message | None:
    if not header.will_flag:
        if header.will_qos or header.will_retain_flag:
            raise MalformedPacket("flags of a will without a will [MQTT-3.1.2-13]")
        return None
    if payload.will_topic is None or payload.will_message is None:
        raise MalformedPacket("will missing")
    topic, qos = _checked_topic(payload.will_topic), _checked_qos(header.will_qos)
    return Message(topic, payload.will_message, qos, retain=header.will_retain_flag)


def _read_publish(frame: PacketFrame, packet: _AmqttPacket) -> Publish:
    qos = _checked_qos((frame.flags >> 1) & 3)
    is_duplicate, is_retained = bool(frame.flags & 8), bool(frame.flags & 1)
    if is_duplicate and not qos:
        raise MalformedPacket("duplicate with QoS 0 [MQTT-3.3.1-2]")
    topic = _checked_topic(packet.variable_header.topic_name)
    return Publish(Message(topic, packet.payload.data, qos, retain=is_retained), _read_packet_id(packet) if qos else 0)


def _read_subscribe(_: PacketFrame, packet: _AmqttPacket) -> Subscribe:
    filters = _checked_filters([topic_filter for topic_filter, _ in packet.payload.topics])
    requested = [_checked_qos(qos) for _, qos in packet.payload.topics]
    return Subscribe(_read_packet_id(packet), tuple(zip(filters, requested, strict=True)))


def _read_unsubscribe(_: PacketFrame, packet: _AmqttPacket) -> Unsubscribe:
    return Unsubscribe(_read_packet_id(packet), tuple(_checked_filters(packet.payload.topics)))


def _read_packet_id(packet: _AmqttPacket) -> int:
    packet_id: int = packet.variable_header.packet_id
    if packet_id == 0:
        raise MalformedPacket("packet ID 0 [MQTT-2.3.1-1]")
    return packet_id


def _checked_qos(qos: int) -> int:
    if qos not in (0, 1, 2):
        raise MalformedPacket("QoS other than 0, 1 and 2 [MQTT-3.3.1-4]")
    return qos


def _checked_text(text: str) -> str:
    if "\0" in text:
        raise MalformedPacket("NUL in a text [MQTT-1.5.3-2]")
    return text


def _checked_topic(text: str) -> str:
    if not text or "+" in text or "#" in text:
        raise MalformedPacket("topic empty or with a wildcard [MQTT-3.3.2-2]")
    return _checked_text(text)


def _checked_filters(texts: list[str]) -> list[str]:
    if not texts:
        raise MalformedPacket("no topic filter [MQTT-3.8.3-3]")
    for text in texts:
        levels = _checked_text(text).split("/")
        wildcards_fill_levels = all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels)
        if not text or not wildcards_fill_levels or "#" in levels[:-1]:
            raise MalformedPacket("malformed topic filter [MQTT-4.7.1]")
    return texts


_CLIENT_PACKETS: Final[Mapping[int, _ClientPacket]] = {
    CONNECT: _ClientPacket(0, _read_connect),
    PUBLISH: _ClientPacket(None, _read_publish),
    PUBACK: _ClientPacket(0, lambda _, packet: Puback(_read_packet_id(packet))),
    PUBREL: _ClientPacket(2, lambda _, packet: Pubrel(_read_packet_id(packet))),
    SUBSCRIBE: _ClientPacket(2, _read_subscribe),
    UNSUBSCRIBE: _ClientPacket(2, _read_unsubscribe),
    PINGREQ: _ClientPacket(0, lambda _, __: Pingreq()),
    DISCONNECT: _ClientPacket(0, lambda _, __: Disconnect()),
}
"""By packet type: what a client may send to a broker that never delivers with QoS 2."""


def encode_connack(code: int, *, session_present: bool = False) -> bytes:
    """Encode CONNACK (section 3.2)."""
    return bytes(ConnackPacket.build(int(session_present), code).to_bytes())


def encode_publish(message: Message, packet_id: int | None, *, duplicate: bool = False) -> bytes:
    """Encode PUBLISH (section 3.3); ``packet_id`` is ``None`` with QoS 0."""
    packet = PublishPacket.build(message.topic, message.payload, packet_id, duplicate, message.qos, message.retain)
    return bytes(packet.to_bytes())


def encode_suback(packet_id: int, codes: list[int]) -> bytes:
    """Encode SUBACK (section 3.9)."""
    return bytes(SubackPacket.build(packet_id, codes).to_bytes())


def encode_acknowledgment(kind: int, packet_id: int) -> bytes:
    """Encode PUBACK, PUBREC, PUBCOMP or UNSUBACK, which carry a packet ID only."""
    return bytes(packet_dict[kind].build(packet_id).to_bytes())


def encode_pingresp() -> bytes:
    """Encode PINGRESP (section 3.13)."""
    return bytes(PingRespPacket.build().to_bytes())
