"""The modes of ``device`` beside the tour: print a token or a password, or connect, publish, subscribe and stay."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.cli.mqtt import MqttConnection
from app.cli.oauth import DeviceCredentials, Server, ServerRefusal, read_private_key
from app.cli.output import Report
from app.cli.setup import read_text, running_dev
from app.errors import Misconfigured
from app.model.devices import MIN_SECRET_BYTES
from app.model.lifetimes import fresh_ms
from app.model.secrets import ClientSecret

_JITTER: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The options of ``device``: who the device is, which token it requests, and what it does with it."""

    client_id: str
    secret_file: Path | None
    private_key: Path | None
    server: str
    state: Path | None
    scope: str
    expires_in_s: int | None
    messages: tuple[tuple[str, str], ...]
    filters: tuple[str, ...]
    stays: bool

    def connect_server(self) -> Server:
        """Return the server, with the device's credentials. Raises ``Misconfigured`` and ``ServerRefusal``."""
        credentials = self._own_credentials()
        if credentials is None:
            dev = running_dev(self.state)
            return Server(self.server or dev["server"], self._example_credentials(dev))
        return Server(self.server or running_dev(self.state)["server"], credentials)

    def request_token(self, server: Server) -> dict[str, Any]:
        """Request the token; return the whole answer. Raises ``ServerRefusal``."""
        return server.token(scope=self.scope, expires_in_s=self.expires_in_s)

    def _own_credentials(self) -> DeviceCredentials | None:
        """Return the credentials that the options name, or None if they name none. Raises ``Misconfigured``."""
        if self.secret_file and self.private_key:
            raise Misconfigured("give only one of --secret-file and --private-key")
        if (self.secret_file or self.private_key) and not self.client_id:
            raise Misconfigured("--secret-file and --private-key need --client-id")
        if self.private_key:
            key, algorithm = read_private_key(read_text(self.private_key))
            return DeviceCredentials(self.client_id, key, algorithm)
        if self.secret_file:
            secret = ClientSecret(read_text(self.secret_file).strip())
            if len(secret.reveal().encode()) < MIN_SECRET_BYTES:
                raise Misconfigured(
                    f"--secret-file {self.secret_file}: a device's secret has at least {MIN_SECRET_BYTES} bytes"
                )
            return DeviceCredentials(self.client_id, secret)
        return None

    def _example_credentials(self, dev: dict[str, Any]) -> DeviceCredentials:
        for known in (dev["device"], dev["dashboard"]):
            if self.client_id in {"", known["client_id"]}:
                return DeviceCredentials(known["client_id"], ClientSecret(known["secret"]))
        raise Misconfigured(f"{self.client_id} is not an example device: give its --secret-file or --private-key")


def print_token_answer(options: DeviceOptions) -> None:
    """Print the token answer as JSON. Raises ``Misconfigured`` and ``ServerRefusal``."""
    print(json.dumps(options.request_token(options.connect_server()), indent=2))


def print_mqtt_password(options: DeviceOptions) -> None:
    """Print only the MQTT password. Raises ``Misconfigured`` and ``ServerRefusal``."""
    print(options.request_token(options.connect_server())["mqtt"]["password"])


def run_client(options: DeviceOptions, report: Report) -> None:
    """Connect, subscribe and publish; then stay connected until Ctrl-C, if the options say so.

    Raises ``Misconfigured``, ``ConnectionEnded`` and ``ServerRefusal``.
    """
    server = options.connect_server()
    answer = options.request_token(server)
    with MqttConnection(answer, on_message=report) as connection:
        for topic_filter in options.filters:
            connection.subscribe(topic_filter)
            report("subscribed", topic_filter)
        for topic, text in options.messages:
            connection.publish(topic, text)
            report("published", topic)
        if options.stays:
            with _on_ctrl_c(connection.stop_waiting):
                _stay(connection, server, answer, options, report)


def renew_after_s(expires_in_s: int) -> float:
    """Return after how many seconds to request the next token.

    Until then the server returns the same one (``fresh_ms``). The result is somewhat later, by chance, so that devices
    that started together do not renew together.
    """
    return expires_in_s - _margin_s(expires_in_s) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - not a secret


def _margin_s(expires_in_s: int) -> float:
    return fresh_ms(expires_in_s) / 1000


def _stay(
    connection: MqttConnection, server: Server, answer: dict[str, Any], options: DeviceOptions, report: Report
) -> None:
    """Renew the token over the same connection until Ctrl-C. Raises ``ConnectionEnded`` and ``ServerRefusal``."""
    while True:
        if connection.wait_closed(renew_after_s(answer["expires_in"])):
            raise connection.ended("staying connected")
        if connection.stopped:
            return
        answer = _request_next_token(server, answer, options)
        connection.renew(answer)
        report("renewed", f"for {answer['expires_in']} s, over the same connection")


@contextlib.contextmanager
def _on_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C; a second one raises ``KeyboardInterrupt``.

    An exception could be raised at any instruction: in a destructor it would be lost, inside a lock it would leave the
    lock closed.
    """

    def stop_once(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, stop_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _request_next_token(server: Server, answer: dict[str, Any], options: DeviceOptions) -> dict[str, Any]:
    """Request the next token; try again as the server says while the current one is valid."""
    until = time.monotonic() + _margin_s(answer["expires_in"]) * (1 - _JITTER)
    while True:
        try:
            return options.request_token(server)
        except ServerRefusal as error:
            if error.retry_after_s is None or time.monotonic() + error.retry_after_s > until:
                raise
            time.sleep(error.retry_after_s)
