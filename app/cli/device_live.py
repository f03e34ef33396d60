"""What ``device`` does beside the tour: proves who it is, connects, stays, and renews in place."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Final

from app.cli.mqtt import MqttConnection
from app.cli.oauth import DeviceCredentials, Server, ServerRefusal, read_private_key
from app.cli.setup import Tell, read_text, running_dev
from app.errors import Misconfigured
from app.model.devices import MIN_SECRET_BYTES
from app.model.secrets import ClientSecret

_JITTER: Final = 0.1


def who(
    client_id: str, secret_file: Path | None, private_key: Path | None, server: str, state: Path | None
) -> tuple[str, DeviceCredentials]:
    """Return the server's URL and the device's credentials, from the options or else from the running `dev`.

    Raises ``Misconfigured``.
    """
    if secret_file and private_key:
        raise Misconfigured("--secret-file and --private-key: a device has one or the other")
    if (secret_file or private_key) and not client_id:
        raise Misconfigured("--client-id is needed beside --secret-file or --private-key")
    if private_key:
        key, algorithm = read_private_key(read_text(private_key))
        return server or running_dev(state)["server"], DeviceCredentials(client_id, key, algorithm)
    if secret_file:
        secret = ClientSecret(read_text(secret_file).strip())
        if len(secret.reveal().encode()) < MIN_SECRET_BYTES:
            raise Misconfigured(f"--secret-file: no device's secret is shorter than {MIN_SECRET_BYTES} bytes")
        return server or running_dev(state)["server"], DeviceCredentials(client_id, secret)
    dev = running_dev(state)
    for known in (dev["device"], dev["dashboard"]):
        if client_id in {"", known["client_id"]}:
            return server or dev["server"], DeviceCredentials(known["client_id"], ClientSecret(known["secret"]))
    raise Misconfigured(f"{client_id} is no example device: give its --secret-file or --private-key")


def live(
    server: Server,
    answer: dict[str, Any],
    messages: list[tuple[str, str]],
    filters: list[str],
    scope: str,
    expires_in_s: int | None,
    *,
    tell: Tell,
    stay: bool,
) -> None:
    """Publish, subscribe, and stay with a token that never runs out, if asked to.

    Raises ``ConnectionEnded`` and ``ServerRefusal``; Ctrl-C while staying is the good end.
    """
    with MqttConnection(answer, heard=tell) as connection:
        for topic_filter in filters:
            connection.subscribe(topic_filter)
            tell("subscribed", topic_filter)
        for topic, text in messages:
            connection.publish(topic, text)
            tell("published", topic)
        while stay:
            try:
                if connection.wait_closed(renew_after_s(answer["expires_in"])):
                    raise connection.ended("staying connected")
                answer = _renewed(server, answer, scope, expires_in_s)
                connection.renew(answer)
                tell("renewed", f"for {answer['expires_in']} s, over the same connection")
            except KeyboardInterrupt:
                return


def renew_after_s(expires_in_s: float) -> float:
    """Return after how many seconds to ask for the next token.

    The server issues anew once the remaining life is at most max(life ÷ 4, min(360 s, life ÷ 2)); earlier it would
    hand the same token out again. Somewhat later, by chance, so that a fleet that started together does not ask
    together.
    """
    return expires_in_s - _margin_s(expires_in_s) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - hides nothing


def _margin_s(expires_in_s: float) -> float:
    return max(expires_in_s / 4, min(360.0, expires_in_s / 2))


def _renewed(server: Server, answer: dict[str, Any], scope: str, expires_in_s: int | None) -> dict[str, Any]:
    """Fetch the next token, asking again as the server says while the present one still lives."""
    until = time.monotonic() + _margin_s(answer["expires_in"]) * (1 - _JITTER)
    while True:
        try:
            return server.token(scope=scope, expires_in_s=expires_in_s)
        except ServerRefusal as error:
            if error.retry_after_s is None or time.monotonic() + error.retry_after_s > until:
                raise
            time.sleep(error.retry_after_s)
