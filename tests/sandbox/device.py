"""A real MQTT client (paho) that records all that it receives."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

USERNAME = "Token|ak-one|post-cn-test"


async def eventually(condition: Callable[[], object], what: str = "", deadline_s: float = 10.0) -> None:
    """Wait until ``condition`` holds, or what it returns to be awaited; fail if it does not."""
    try:
        async with asyncio.timeout(deadline_s):
            # paho lives in a thread and HTTP has no events: there is nothing to await but time.
            while not (await held if inspect.isawaitable(held := condition()) else held):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"condition not met: {what or condition}") from None


class Device:
    """A paho client in its own thread; it does not reconnect by itself."""

    def __init__(
        self,
        port: int,
        client_id: str,
        password: str,
        *,
        username: str = USERNAME,
        clean: bool = True,
        keep_alive_s: int = 60,
        will: tuple[str, str] | None = None,
        protocol: int = paho.MQTTv311,
    ) -> None:
        self.port = port
        self.keep_alive_s = keep_alive_s
        self.code: int | None = None
        self.session_present = False
        self.over = False
        self.messages: list[tuple[str, bytes, int, bool]] = []
        self.acknowledged: set[int] = set()
        self.granted: dict[int, list[int]] = {}
        self.unsubscribed: set[int] = set()
        v5 = protocol == paho.MQTTv5
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if v5 else clean,
            protocol=protocol,  # type: ignore[arg-type]
            reconnect_on_failure=False,
        )
        self.client.username_pw_set(username, password)
        if will:
            self.client.will_set(will[0], will[1].encode(), qos=1)
        self.client.on_connect = self._connected
        self.client.on_disconnect = lambda *_: setattr(self, "over", True)
        self.client.on_message = lambda _, __, m: self.messages.append((m.topic, bytes(m.payload), m.qos, m.retain))
        self.client.on_publish = lambda _, __, mid, *___: self.acknowledged.add(mid)
        self.client.on_subscribe = lambda _, __, mid, codes, ___: self.granted.update({mid: [c.value for c in codes]})
        self.client.on_unsubscribe = lambda _, __, mid, *___: self.unsubscribed.add(mid)

    def _connected(self, _: Any, __: Any, flags: Any, reason: ReasonCode, ___: Any) -> None:
        self.session_present = flags.session_present
        self.code = reason.value

    async def connect(self) -> None:
        """Connect and wait for CONNACK, or for the end."""
        await asyncio.to_thread(self.client.connect, "127.0.0.1", self.port, self.keep_alive_s)
        self.client.loop_start()
        await eventually(lambda: self.code is not None or self.over, "CONNACK")

    async def subscribe(self, topic_filter: str, qos: int = 0) -> list[int] | None:
        """Return the SUBACK codes; ``None`` if the connection ended instead."""
        _, mid = self.client.subscribe(topic_filter, qos)
        assert mid is not None
        await eventually(lambda: mid in self.granted or self.over, "SUBACK")
        return self.granted.get(mid)

    async def publish(self, topic: str, payload: bytes | str = b"x", qos: int = 1, *, retain: bool = False) -> bool:
        """Publish a message; return whether it was acknowledged (with QoS 0: sent)."""
        info = self.client.publish(topic, payload, qos, retain)
        await eventually(lambda: info.mid in self.acknowledged or self.over, "PUBACK")
        return info.mid in self.acknowledged

    async def upload(self, type_: str, token: str, key: str = "token") -> bool:
        """Upload a token; return whether it was acknowledged."""
        return await self.publish("$SYS/uploadToken", json.dumps({key: token, "type": type_}))

    async def cut(self) -> None:
        """Wait until the connection is over."""
        await eventually(lambda: self.over, "the end of the connection")

    async def got(self, payload: bytes) -> tuple[str, bytes, int, bool]:
        """Wait for a message and return it."""
        await eventually(lambda: any(m[1] == payload for m in self.messages), repr(payload))
        return next(m for m in self.messages if m[1] == payload)

    def payloads(self) -> list[bytes]:
        """Return the payloads of application messages in the order they came."""
        return [payload for topic, payload, _, _ in self.messages if not topic.startswith("$")]

    def notices(self, name: str = "tokenInvalidNotice") -> list[dict[str, Any]]:
        """Return the bodies of the broker's notices."""
        return [json.loads(payload) for topic, payload, _, _ in self.messages if topic == f"$SYS/{name}"]

    async def close(self, *, goodbye: bool = True) -> None:
        """Disconnect; without ``goodbye`` the socket just closes."""
        if goodbye:
            self.client.disconnect()
        elif (socket := self.client.socket()) is not None:
            socket.close()
        await asyncio.to_thread(self.client.loop_stop)
        # paho leaves its own pair of sockets to the garbage collector, which may warn of them first.
        self.client._reset_sockets(sockpair_only=True)
