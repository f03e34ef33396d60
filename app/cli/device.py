"""``device``: a device at the command line. Fetches its token, connects, publishes, subscribes, renews in place."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.cli.setup import JsonOption, StateOption, running_dev
from app.errors import Misconfigured
from app.model.secrets import ClientSecret

_JITTER: Final = 0.1


def device(
    client_id: Annotated[str, typer.Option(help="The device; left out: the example device of dev.")] = "",
    secret_file: Annotated[Path | None, typer.Option(help="File with its secret.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="File with its private key (PEM), for private_key_jwt.")] = None,
    server: Annotated[str, typer.Option(help="URL of the server; left out: that of dev.")] = "",
    scope: Annotated[str, typer.Option(help="Permissions to ask for; left out: all its role permits.")] = "",
    expires_in: Annotated[int | None, typer.Option(help="Lifetime to ask for, in seconds.")] = None,
    show_answer: Annotated[bool, typer.Option("--print", help="Print the token answer as JSON, and end.")] = False,
    password: Annotated[bool, typer.Option("--password", help="Print the MQTT password alone, and end.")] = False,
    publish: Annotated[list[str] | None, typer.Option(metavar="TOPIC=MESSAGE", help="Publish; repeatable.")] = None,
    subscribe: Annotated[list[str] | None, typer.Option(metavar="FILTER", help="Subscribe, and stay; repeatable.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Stay connected, renewing on time, until Ctrl-C.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be a device. Without further options: a tour, from the example device's token to its being cut off."""
    from app.cli.oauth import Server  # noqa: PLC0415 - `--help` stays quick

    plain = bool(publish or subscribe or stay)
    if not (plain or show_answer or password):
        if client_id or secret_file or private_key or server or scope or expires_in:
            raise Misconfigured("say what the device shall do: --print, --password, --publish, --subscribe or --stay")
        from app.cli.tour import tour  # noqa: PLC0415

        tour(running_dev(state), _tell_json if as_json else _tell)
        return

    messages = [_message(text) for text in publish or ()]
    url, credentials = _who(client_id, secret_file, private_key, server, state)
    asked = Server(url, credentials)
    answer = asked.token(scope=scope, expires_in_s=expires_in)
    if show_answer:
        print(json.dumps(answer, indent=2))
    elif password:
        print(answer["mqtt"]["password"])
    else:
        _live(asked, answer, messages, subscribe or [], scope, expires_in, as_json=as_json, stay=stay or bool(subscribe))


def _who(
    client_id: str, secret_file: Path | None, private_key: Path | None, server: str, state: Path | None
) -> tuple[str, Credentials]:
    """Return the server's URL and the device's credentials, from the options or else from the running `dev`."""
    from app.cli.oauth import Credentials, read_private_key  # noqa: PLC0415

    if secret_file and private_key:
        raise Misconfigured("--secret-file and --private-key: a device has one or the other")
    if secret_file or private_key:
        if not client_id:
            raise Misconfigured("--client-id is needed beside --secret-file or --private-key")
        text = _read(secret_file or private_key)
        key, algorithm = read_private_key(text) if private_key else (ClientSecret(text.strip()), "HS256")
        return server or running_dev(state)["server"], Credentials(client_id, key, algorithm)
    dev = running_dev(state)
    for known in (dev["device"], dev["dashboard"]):
        if client_id in {"", known["client_id"]}:
            return server or dev["server"], Credentials(known["client_id"], ClientSecret(known["secret"]))
    raise Misconfigured(f"{client_id} is no example device: give its --secret-file or --private-key")


def _live(
    server: Server,
    answer: dict[str, Any],
    messages: list[tuple[str, str]],
    filters: list[str],
    scope: str,
    expires_in_s: int | None,
    *,
    as_json: bool,
    stay: bool,
) -> None:
    """Publish, subscribe, and stay with a token that never runs out, if asked to."""
    from app.cli.mqtt import Connection  # noqa: PLC0415

    tell = _tell_json if as_json else _tell
    with Connection(answer, heard=tell) as connection:
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
    margin_s = max(expires_in_s / 4, min(360.0, expires_in_s / 2))
    return expires_in_s - margin_s * random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads load, hides nothing


def _renewed(server: Server, answer: dict[str, Any], scope: str, expires_in_s: int | None) -> dict[str, Any]:
    """Fetch the next token, asking again as the server says while the present one still lives."""
    from app.cli.oauth import Refused  # noqa: PLC0415

    until = time.monotonic() + renew_margin_s(answer["expires_in"])
    while True:
        try:
            return server.token(scope=scope, expires_in_s=expires_in_s)
        except Refused as error:
            if error.retry_after_s is None or time.monotonic() + error.retry_after_s > until:
                raise
            time.sleep(error.retry_after_s)


def _message(text: str) -> tuple[str, str]:
    topic, equals, message = text.partition("=")
    if not (topic and equals):
        raise Misconfigured(f"--publish {text}: write TOPIC=MESSAGE")
    return topic, message


def _read(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read {path}: {error}") from error


def _tell(what: str, text: str) -> None:
    print(f"{what:<11} {text}", flush=True)


def _tell_json(what: str, text: str) -> None:
    print(json.dumps({"what": what, "text": text}), flush=True)
