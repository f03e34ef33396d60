"""The tour of ``device``: from a token to the end of the connection, each step checked and reported."""

from __future__ import annotations

import hashlib
import json
import queue
import time
from typing import Any, Final, Self
from urllib.request import urlopen

from app.cli.mqtt import ConnectionEnded, MqttConnection, describe_reason
from app.cli.oauth import DeviceCredentials, Server
from app.cli.output import Report
from app.errors import Refusal
from app.model.lifetimes import MIN_LIFETIME_S
from app.model.secrets import ClientSecret

UP: Final = "plant/d1/up/temperature"
DOWN: Final = "plant/d1/down/led"
OUTSIDE: Final = "plant/d2/up/temperature"

_RECEIVE_WITHIN_S: Final = 5.0
_REVOKED_WITHIN_S: Final = 10.0


class StepFailed(Refusal):
    """A step of the tour did not have the expected result."""


def run_tour(dev: dict[str, Any], report: Report) -> None:
    """Run the tour with the example device of a running `dev`. Raises ``Refusal`` at the first wrong step."""
    device = _connect_server(dev, "device")
    first = device.token()
    report("token", f"for {first['expires_in']} s: {first['scope']}")
    with (
        _Listener.connected(_connect_server(dev, "dashboard").token(), "plant/+/up/#") as dashboard,
        _Listener.connected(first, "plant/d1/down/#") as sensor,
    ):
        mqtt = first["mqtt"]
        report("connected", f"to {mqtt['host']}:{mqtt['port']} as {mqtt['client_id']}, user name {mqtt['username']}")
        report("inside", _deliver(sensor, dashboard, UP, "21.5", to="the dashboard"))
        report("inside", _deliver(dashboard, sensor, DOWN, "on", to="the device"))

        # With another lifetime the server issues a new token at once; with the same one it returns the first.
        renewed = device.token(expires_in_s=max(MIN_LIFETIME_S, first["expires_in"] // 2))
        if renewed["access_token"] == first["access_token"]:
            raise StepFailed("the server returned the same token for another lifetime")
        sensor.connection.renew(renewed)
        kinds = " and ".join(token["type"] for token in renewed["mqtt"]["tokens"])
        report("renewed", f"a new token, {kinds} uploaded and acknowledged over the same connection")
        device.revoke(first["access_token"])
        _await_revoked(dev["sandbox"], first)
        report("revoked", "the old token is revoked, also at the cloud")
        report("still on", _deliver(sensor, dashboard, UP, "22.0", to="the dashboard") + ", same connection")

        report("outside", _publish_outside(sensor.connection))


class _Listener:
    """A connection and the messages that it has received."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._messages: queue.Queue[tuple[str, str]] = queue.Queue()
        self.connection = MqttConnection(answer, lambda topic, text: self._messages.put((topic, text)))

    @classmethod
    def connected(cls, answer: dict[str, Any], topic_filter: str) -> Self:
        """Connect and subscribe."""
        listener = cls(answer)
        try:
            listener.connection.subscribe(topic_filter)
        except ConnectionEnded:
            listener.connection.close()
            raise
        return listener

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def receives(self, topic: str, text: str) -> bool:
        """Wait until this message arrives; return whether it did."""
        deadline = time.monotonic() + _RECEIVE_WITHIN_S
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                if self._messages.get(timeout=left_s) == (topic, text):
                    return True
            except queue.Empty:
                break
        return False


def _deliver(sender: _Listener, listener: _Listener, topic: str, text: str, *, to: str) -> str:
    sender.connection.publish(topic, text)
    if not listener.receives(topic, text):
        raise StepFailed(f"published {topic}, but {to} received nothing within {_RECEIVE_WITHIN_S:g} s")
    return f"published {topic}: {to} received “{text}”"


def _publish_outside(connection: MqttConnection) -> str:
    try:
        connection.publish(OUTSIDE, "99")
    except ConnectionEnded:
        if connection.open:
            raise
    else:
        raise StepFailed(f"published {OUTSIDE}, outside the role, and the broker did not close the connection")
    if connection.reason is None:
        raise StepFailed(f"published {OUTSIDE}: the broker closed the connection, but gave no reason")
    reason = f"reason {connection.reason}: {describe_reason(connection.reason)}"
    return f"published {OUTSIDE}: the broker closed the connection, {reason}"


def _await_revoked(sandbox: str, answer: dict[str, Any]) -> None:
    """Wait until every cloud token of ``answer`` is revoked at the sandbox, which is cloud and broker in one."""
    wanted = {hashlib.sha256(token["token"].encode()).hexdigest() for token in answer["mqtt"]["tokens"]}
    deadline = time.monotonic() + _REVOKED_WITHIN_S
    while True:
        try:
            with urlopen(f"{sandbox}/_sandbox/tokens", timeout=_RECEIVE_WITHIN_S) as reply:  # noqa: S310 - dev's own
                revoked = {token["sha256"] for token in json.load(reply) if token["revoked"]}
        except OSError as error:
            raise StepFailed(f"the sandbox does not answer ({error}): check that dev is running") from error
        if wanted <= revoked:
            return
        if time.monotonic() > deadline:
            raise StepFailed(f"the old token is not revoked at the cloud after {_REVOKED_WITHIN_S:g} s")
        time.sleep(0.05)


def _connect_server(dev: dict[str, Any], name: str) -> Server:
    return Server(dev["server"], DeviceCredentials(dev[name]["client_id"], ClientSecret(dev[name]["secret"])))
