"""The tour of ``device``: one device from its token to being cut off, each step checked and told."""

from __future__ import annotations

import hashlib
import json
import queue
import time
from typing import Any, Final, Self
from urllib.request import urlopen

from app.cli.mqtt import REASONS, ConnectionEnded, MqttConnection
from app.cli.oauth import DeviceCredentials, Server
from app.cli.setup import Tell
from app.errors import Refusal
from app.model.lifetimes import MIN_LIFETIME_S
from app.model.secrets import ClientSecret

UP: Final = "plant/d1/up/temperature"
DOWN: Final = "plant/d1/down/led"
OUTSIDE: Final = "plant/d2/up/temperature"

_HEAR_WITHIN_S: Final = 5.0
_REVOKED_WITHIN_S: Final = 10.0


class StepFailed(Refusal):
    """A step of the tour did not do what it should."""


def tour(dev: dict[str, Any], tell: Tell) -> None:
    """Lead the example device of a running `dev` through its life. Raises ``Refusal`` at the first wrong step."""
    device = _server(dev, "device")
    first = device.token()
    tell("token", f"for {first['expires_in']} s: {first['scope']}")
    with (
        _Ear.connected(_server(dev, "dashboard").token(), "plant/+/up/#") as dashboard,
        _Ear.connected(first, "plant/d1/down/#") as sensor,
    ):
        mqtt = first["mqtt"]
        tell("connected", f"to {mqtt['host']}:{mqtt['port']} as {mqtt['client_id']}, user name {mqtt['username']}")
        tell("inside", _deliver(sensor, dashboard, UP, "21.5", heard_by="the dashboard"))
        tell("inside", _deliver(dashboard, sensor, DOWN, "on", heard_by="the device"))

        # Another lifetime is another token: the server issues anew without a wait until the first grows old.
        renewed = device.token(expires_in_s=max(MIN_LIFETIME_S, first["expires_in"] // 2))
        if renewed["access_token"] == first["access_token"]:
            raise StepFailed("asked for another lifetime, the server handed out the same token")
        sensor.connection.renew(renewed)
        kinds = " and ".join(token["type"] for token in renewed["mqtt"]["tokens"])
        tell("renewed", f"a new token, {kinds} uploaded and acknowledged over the same connection")
        device.revoke(first["access_token"])
        _await_revoked(dev["sandbox"], first)
        tell("revoked", "the old token is revoked, and the cloud knows")
        tell("still on", _deliver(sensor, dashboard, UP, "22.0", heard_by="the dashboard") + ", same connection")

        tell("outside", _be_cut_off(sensor.connection))


class _Ear:
    """A connection and what it has heard."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._heard: queue.Queue[tuple[str, str]] = queue.Queue()
        self.connection = MqttConnection(answer, lambda topic, text: self._heard.put((topic, text)))

    @classmethod
    def connected(cls, answer: dict[str, Any], topic_filter: str) -> Self:
        """Connect and subscribe."""
        ear = cls(answer)
        try:
            ear.connection.subscribe(topic_filter)
        except ConnectionEnded:
            ear.connection.close()
            raise
        return ear

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def hears(self, topic: str, text: str) -> bool:
        """Wait until this very message has arrived; tells whether it has."""
        deadline = time.monotonic() + _HEAR_WITHIN_S
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                if self._heard.get(timeout=left_s) == (topic, text):
                    return True
            except queue.Empty:
                break
        return False


def _deliver(speaker: _Ear, listener: _Ear, topic: str, text: str, *, heard_by: str) -> str:
    speaker.connection.publish(topic, text)
    if not listener.hears(topic, text):
        raise StepFailed(f"published {topic}, yet {heard_by} heard nothing within {_HEAR_WITHIN_S:g} s")
    return f"published {topic}: {heard_by} heard “{text}”"


def _be_cut_off(connection: MqttConnection) -> str:
    try:
        connection.publish(OUTSIDE, "99")
    except ConnectionEnded:
        if connection.open:
            raise
    else:
        raise StepFailed(f"published {OUTSIDE}, outside the role, and was not cut off")
    if connection.reason is None:
        raise StepFailed(f"published {OUTSIDE}: cut off, but the broker gave no reason")
    words = REASONS.get(connection.reason, "unknown to this program")
    return f"published {OUTSIDE}: cut off, the broker's reason {connection.reason}: {words}"


def _await_revoked(sandbox: str, answer: dict[str, Any]) -> None:
    """Wait until the sandbox, which is cloud and broker in one, holds every cloud token of ``answer`` as revoked."""
    wanted = {hashlib.sha256(token["token"].encode()).hexdigest() for token in answer["mqtt"]["tokens"]}
    deadline = time.monotonic() + _REVOKED_WITHIN_S
    while True:
        try:
            with urlopen(f"{sandbox}/_sandbox/tokens", timeout=_HEAR_WITHIN_S) as reply:  # noqa: S310 - dev's own
                revoked = {token["sha256"] for token in json.load(reply) if token["revoked"]}
        except OSError as error:
            raise StepFailed(f"the sandbox does not answer: {error}") from error
        if wanted <= revoked:
            return
        if time.monotonic() > deadline:
            raise StepFailed(f"the cloud does not hold the old token as revoked after {_REVOKED_WITHIN_S:g} s")
        time.sleep(0.05)


def _server(dev: dict[str, Any], who: str) -> Server:
    return Server(dev["server"], DeviceCredentials(dev[who]["client_id"], ClientSecret(dev[who]["secret"])))
