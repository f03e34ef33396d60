"""``device``: a device at the command line. Fetches its token, connects, publishes, subscribes, renews in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.setup import JsonOption, StateOption, running_dev
from app.errors import Misconfigured


def device(
    client_id: Annotated[str, typer.Option(help="The device; left out: the example device of dev.")] = "",
    secret_file: Annotated[Path | None, typer.Option(help="File with its secret.")] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="File with its private key (PEM), for private_key_jwt.")
    ] = None,
    server: Annotated[str, typer.Option(help="URL of the server; left out: that of dev.")] = "",
    scope: Annotated[str, typer.Option(help="Permissions to ask for; left out: all its role permits.")] = "",
    expires_in: Annotated[int | None, typer.Option(help="Lifetime to ask for, in seconds.")] = None,
    show_answer: Annotated[bool, typer.Option("--print", help="Print the token answer as JSON, and end.")] = False,
    password: Annotated[bool, typer.Option("--password", help="Print the MQTT password alone, and end.")] = False,
    publish: Annotated[list[str] | None, typer.Option(metavar="TOPIC=MESSAGE", help="Publish; repeatable.")] = None,
    subscribe: Annotated[
        list[str] | None, typer.Option(metavar="FILTER", help="Subscribe, and stay; repeatable.")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Stay connected, renewing on time, until Ctrl-C.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be a device. Without further options: a tour, from the example device's token to its being cut off."""
    tell = _tell_json if as_json else _tell
    plain = bool(publish or subscribe or stay)
    if not (plain or show_answer or password):
        if client_id or secret_file or private_key or server or scope or expires_in:
            raise Misconfigured("say what the device shall do: --print, --password, --publish, --subscribe or --stay")
        from app.cli.tour import tour  # noqa: PLC0415 - `--help` stays quick

        tour(running_dev(state), tell)
        return

    from app.cli.device_live import live, who  # noqa: PLC0415
    from app.cli.oauth import Server  # noqa: PLC0415

    messages = [_message(text) for text in publish or ()]
    url, credentials = who(client_id, secret_file, private_key, server, state)
    asked = Server(url, credentials)
    answer = asked.token(scope=scope, expires_in_s=expires_in)
    if show_answer:
        print(json.dumps(answer, indent=2))
    elif password:
        print(answer["mqtt"]["password"])
    else:
        stay = stay or bool(subscribe)
        live(asked, answer, messages, subscribe or [], scope, expires_in, tell=tell, stay=stay)


def _message(text: str) -> tuple[str, str]:
    topic, equals, message = text.partition("=")
    if not (topic and equals):
        raise Misconfigured(f"--publish {text}: write TOPIC=MESSAGE")
    return topic, message


def _tell(what: str, text: str) -> None:
    print(f"{what:<11} {text}", flush=True)


def _tell_json(what: str, text: str) -> None:
    print(json.dumps({"what": what, "text": text}), flush=True)
