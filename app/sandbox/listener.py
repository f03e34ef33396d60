"""The broker's front: who has a connection, and how it is lost when the broker restarts or stops."""

from __future__ import annotations

import asyncio

from app.sandbox.broker import Broker
from app.sandbox.connection import Connection
from app.sandbox.signin import SignIn
from app.sandbox.wire import Wire


class Listener:
    """Accepts connections and owns their tasks."""

    def __init__(self, broker: Broker, sign_in: SignIn) -> None:
        self._broker = broker
        self._sign_in = sign_in
        self._serving: dict[asyncio.Task[None], Connection] = {}
        self._up_at_s = 0.0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection, or drop it at once while the broker is down."""
        if asyncio.get_running_loop().time() < self._up_at_s:
            writer.transport.abort()
            return
        connection = Connection(self._broker, self._sign_in, Wire(reader, writer))
        task = asyncio.create_task(connection.serve())
        self._serving[task] = connection
        task.add_done_callback(lambda done: self._serving.pop(done, None))

    async def restart(self, *, down_s: float, forget_sessions: bool) -> int:
        """Drop every connection without a word and accept none for ``down_s``; return how many were dropped.

        The sessions of those who asked for one stay, as they would in a cluster, and so do messages held for them and
        retained ones; with ``forget_sessions`` only the latter do. Wills are sent, as for any connection lost.
        """
        self._up_at_s = asyncio.get_running_loop().time() + down_s
        dropped = await self._drop("the broker restarts")
        if forget_sessions:
            self._broker.forget_sessions()
        return dropped

    async def stop(self) -> None:
        """Drop every connection; returns when their tasks have ended."""
        await self._drop("the sandbox stops")

    async def _drop(self, why: str) -> int:
        tasks = list(self._serving)
        for connection in list(self._serving.values()):
            connection.end(why)
            connection.abort()
        await asyncio.gather(*tasks)
        return len(tasks)
