"""An MQTT 3.1.1 connection with a token, as any client makes it (guide chapter 10; FACTS 1 and 2)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Self

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from app.errors import Misconfigured, Refusal

REASONS: Final = {
    1: "the token is forged or cannot be read",
    2: "the token has expired",
    3: "the token was revoked",
    4: "the topic is outside the token's resources",
    5: "the token does not permit this direction",
    8: "the token's signature is wrong",
    -1: "the account's permission, the client's group or its credential is gone",
}
"""Codes of ``$SYS/tokenInvalidNotice``: the broker's reason, sent before it closes a connection."""

_HINTS: Final = {
    "Not authorized": " (the token is invalid, or the group of the client ID does not exist: CreateGroupId creates it)",
    "Client identifier not valid": " (write it as GID_group@@@device, at most 64 characters)",
}
"""The probable cause of a CONNACK code, by paho's name of the code."""

_INVALID_NOTICE: Final = "$SYS/tokenInvalidNotice"
_UPLOAD: Final = "$SYS/uploadToken"
_WAIT_S: Final = 10.0
_REFUSED_SUBSCRIPTION: Final = 0x80


def describe_reason(code: int) -> str:
    """Return a code of ``$SYS/tokenInvalidNotice`` in words."""
    return REASONS.get(code, "unknown to this program")


class ConnectionEnded(Refusal):
    """The broker refused or closed the connection; the message has the broker's reason if it sent one."""


class MqttConnection:
    """A connection that is never opened again by itself, so that its end is always noticed. A context manager."""

    def __init__(
        self, answer: dict[str, Any], on_message: Callable[[str, str], None] = lambda _topic, _text: None
    ) -> None:
        """Connect with the ``mqtt`` part of a token answer; ``on_message`` gets topic and text of each message.

        ``on_message`` runs in the network thread. Raises ``ConnectionEnded``.
        """
        mqtt = answer["mqtt"]
        self.reason: int | None = None
        self._refusal = "no answer"
        self._message_callback = on_message
        self._changed = threading.Condition()
        self._done: dict[int, int] = {}
        self._connected: bool | None = None
        self._stopped = False
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, mqtt["client_id"], protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        self._client.username_pw_set(mqtt["username"], mqtt["password"])
        if mqtt["tls"]:
            self._client.tls_set()
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        try:
            self._client.connect(mqtt["host"], mqtt["port"])
        except OSError as error:
            raise ConnectionEnded(f"the broker {mqtt['host']}:{mqtt['port']} does not answer: {error}") from error
        self._client.loop_start()
        if not self._wait(lambda: self._connected is not None) or not self._connected:
            self.close()
            raise ConnectionEnded(f"the broker refused the connection: {self._refusal}")

    def __enter__(self) -> Self:
        """Return the connection, which is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Disconnect, and end the network thread."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def open(self) -> bool:
        """Whether the connection is open."""
        return bool(self._connected)

    def publish(self, topic: str, text: str) -> None:
        """Publish with QoS 1 and wait for the broker's PUBACK.

        Raises ``Misconfigured`` for an invalid topic, ``ConnectionEnded`` if the broker closes the connection instead.
        """
        try:
            number = self._client.publish(topic, text, qos=1).mid
        except ValueError as error:
            raise Misconfigured(f"cannot publish to {topic!r}: {error}") from error
        self._await_answer(number, f"publishing to {topic}")

    def subscribe(self, topic_filter: str) -> None:
        """Subscribe with QoS 1 and wait for the SUBACK.

        Raises ``Misconfigured`` for an invalid topic filter, and ``ConnectionEnded``.
        """
        try:
            code, number = self._client.subscribe(topic_filter, qos=1)
        except ValueError as error:
            raise Misconfigured(f"cannot subscribe to {topic_filter!r}: {error}") from error
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
            raise ConnectionEnded(f"subscribing to {topic_filter}: {paho.error_string(code)}")
        if self._await_answer(number, f"subscribing to {topic_filter}") >= _REFUSED_SUBSCRIPTION:
            raise ConnectionEnded(f"the broker refused the subscription to {topic_filter}{self._why()}")

    def renew(self, answer: dict[str, Any]) -> None:
        """Replace the token by a new one, over this connection.

        Each cloud token is uploaded and its PUBACK awaited: before that the broker may still use the old token.
        """
        for token in answer["mqtt"]["tokens"]:
            self.publish(_UPLOAD, json.dumps({"token": token["token"], "type": token["type"]}))

    def wait_closed(self, within_s: float) -> bool:
        """Wait until the broker has closed the connection or ``stop_waiting`` is called; return whether it has."""
        self._wait(lambda: self._stopped or not self._connected, within_s)
        return not self._connected

    def stop_waiting(self) -> None:
        """End ``wait_closed`` now and at once from now on. May be called in a signal handler of the waiting thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether ``stop_waiting`` was called."""
        return self._stopped

    def ended(self, doing: str) -> ConnectionEnded:
        """Return the error for the end of this connection."""
        return ConnectionEnded(f"{doing}: the connection was closed{self._why()}")

    def _await_answer(self, number: int, doing: str) -> int:
        self._wait(lambda: number in self._done or not self._connected)
        if number in self._done:
            return self._done.pop(number)
        if self._connected:
            raise ConnectionEnded(f"{doing}: no answer from the broker within {_WAIT_S:g} s")
        raise self.ended(doing)

    def _why(self) -> str:
        if self.reason is None:
            return ""
        return f" by the broker, reason {self.reason}: {describe_reason(self.reason)}"

    def _wait(self, condition: Callable[[], bool], within_s: float = _WAIT_S) -> bool:
        deadline = time.monotonic() + within_s
        with self._changed:
            return self._changed.wait_for(condition, deadline - time.monotonic())

    def _note_answer(self, number: int, code: int) -> None:
        with self._changed:
            self._done[number] = code
            self._changed.notify_all()

    def _on_connect(self, _c: paho.Client, _u: object, _f: object, code: ReasonCode, _p: Properties | None) -> None:
        with self._changed:
            self._connected = not code.is_failure
            self._refusal = f"{code}{_HINTS.get(str(code), '')}"
            self._changed.notify_all()

    def _on_disconnect(self, _c: paho.Client, _u: object, _f: object, _r: ReasonCode, _p: Properties | None) -> None:
        with self._changed:
            self._connected = False
            self._changed.notify_all()

    def _on_publish(self, _c: paho.Client, _u: object, number: int, _r: ReasonCode, _p: Properties | None) -> None:
        self._note_answer(number, 0)

    def _on_subscribe(
        self, _c: paho.Client, _u: object, number: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        self._note_answer(number, max(int(code.value) for code in codes))

    def _on_message(self, _c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        text = message.payload.decode(errors="replace")
        if message.topic == _INVALID_NOTICE:
            self.reason = json.loads(text)["code"]
        self._message_callback(message.topic, text)
