"""SendMessage through the sandbox's broker (guide chapter 12.1)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.account import Account, Handlers
from app.sandbox.answers import Fault, Value
from app.sandbox.packets import Message
from app.sandbox.verify import Call

_MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""A message ends here, whoever sends it; the cloud cuts an MQTT client that goes beyond."""

_QOS: Final = 1
"""The action has no QoS. A subscription's own QoS is the lower bound; who is away with a session gets it later."""


async def _send_message(account: Account, call: Call) -> Mapping[str, Value]:
    """Publish; the payload is text, which travels as UTF-8. Success is that it was routed, to however many."""
    topic, payload = call.parameters["MqttTopic"], call.parameters["Payload"].encode()
    if len(payload) > _MAX_PAYLOAD_BYTES:
        raise Fault("InvalidParameter.%s", "Payload")
    if not account.parents.has(topic):
        raise Fault("PermissionCheckFailed")
    if account.serves(call):
        await account.broker.publish(Message(topic, payload, _QOS))
    return {"MsgId": uuid.uuid4().hex.upper()}


HANDLERS: Final[Handlers] = MappingProxyType({"SendMessage": _send_message})
