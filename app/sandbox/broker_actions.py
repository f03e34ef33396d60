"""The actions on the broker: SendMessage, session queries and CloseConnection (guide chapters 12 and 13, FACTS 3.1)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.rpc.catalog import ACTIONS
from app.sandbox.account import ActionHandler, SandboxAccount
from app.sandbox.answers import AnswerValue, CallRefused
from app.sandbox.packets import Message
from app.sandbox.verify import VerifiedCall

_BATCH: Final = ACTIONS["BatchQuerySessionByClientIds"]

_MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""The limit of every message; the cloud disconnects an MQTT client that exceeds it."""

_SEND_MESSAGE_QOS: Final = 1
"""The action has no QoS. A subscription may have a lower one; a client that is away with a session gets it later."""


async def _send_message(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Publish a text as UTF-8. Success means that it was routed, to any number of receivers."""
    topic, payload = call.parameters["MqttTopic"], call.parameters["Payload"].encode()
    if len(payload) > _MAX_PAYLOAD_BYTES:
        raise CallRefused("InvalidParameter.%s", "Payload")
    if not account.parents.include(topic):
        raise CallRefused("PermissionCheckFailed")
    if account.is_served(call):
        await account.broker.publish(Message(topic, payload, _SEND_MESSAGE_QOS))
    return {"MsgId": uuid.uuid4().hex.upper()}


async def _query_session(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Return whether a client is online; one that never connected, or whose ID is malformed, is not."""
    return {"OnlineStatus": _is_online(account, call, call.parameters["ClientId"])}


async def _query_sessions(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Answer in the order of the request, and repeat a client ID that it repeats."""
    client_ids = _BATCH.parameters[0].values(call.parameters)
    return {
        "OnlineStatusList": [
            {"ClientId": client_id, "OnlineStatus": _is_online(account, call, client_id)} for client_id in client_ids
        ]
    }


async def _close_connection(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """End a client's connection. For a client that is offline the answer is the same.

    Its session stays, its will is published, and it may reconnect: to prevent that, revoke its tokens first.
    """
    if account.is_served(call):
        account.broker.close_connection(call.parameters["ClientId"])
    return {"Code": 200, "Message": "operation success.", "Success": True}


def _is_online(account: SandboxAccount, call: VerifiedCall, client_id: str) -> bool:
    return account.is_served(call) and account.broker.is_online(client_id)


HANDLERS: Final[Mapping[str, ActionHandler]] = MappingProxyType(
    {
        "SendMessage": _send_message,
        "QuerySessionByClientId": _query_session,
        "BatchQuerySessionByClientIds": _query_sessions,
        "CloseConnection": _close_connection,
    }
)
