"""Who is connected to the sandbox's broker now (guide chapter 13), and ending a connection (FACTS 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.rpc.catalog import ACTIONS
from app.sandbox.account import Account, Handlers
from app.sandbox.answers import Value
from app.sandbox.verify import Call

_BATCH: Final = ACTIONS["BatchQuerySessionByClientIds"]


async def _query_session(account: Account, call: Call) -> Mapping[str, Value]:
    """Tell whether a client is online; one that never was, or whose ID could not be one, is not."""
    return {"OnlineStatus": _is_online(account, call, call.parameters["ClientId"])}


async def _query_sessions(account: Account, call: Call) -> Mapping[str, Value]:
    """Answer in the order asked, and a client ID that is asked for twice twice."""
    client_ids = _BATCH.parameters[0].values(call.parameters)
    return {
        "OnlineStatusList": [
            {"ClientId": client_id, "OnlineStatus": _is_online(account, call, client_id)} for client_id in client_ids
        ]
    }


async def _close_connection(account: Account, call: Call) -> Mapping[str, Value]:
    """End a client's connection. For one that is not online the answer is the same: what was wanted is so.

    Its session stays, its will is published, and it may come back: whoever wants it gone revokes first.
    """
    if account.serves(call):
        account.broker.close(call.parameters["ClientId"])
    return {"Code": 200, "Message": "operation success.", "Success": True}


def _is_online(account: Account, call: Call, client_id: str) -> bool:
    return account.serves(call) and account.broker.is_online(client_id)


HANDLERS: Final[Handlers] = MappingProxyType(
    {
        "QuerySessionByClientId": _query_session,
        "BatchQuerySessionByClientIds": _query_sessions,
        "CloseConnection": _close_connection,
    }
)
