"""``device``: a device at the command line. It fetches a token, connects, publishes, subscribes and renews in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import report_json, report_text
from app.cli.setup import JsonOption, StateOption, running_dev
from app.errors import Misconfigured


def run_device(
    client_id: Annotated[
        str, typer.Option(metavar="CLIENT_ID", help="The device. Default: the example device of dev.")
    ] = "",
    secret_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the device's secret.")] = None,
    private_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the device's private key (PEM).")
    ] = None,
    server: Annotated[str, typer.Option(metavar="URL", help="URL of the server. Default: that of dev.")] = "",
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="Permissions to request. Default: all that the role allows.")
    ] = "",
    expires_in: Annotated[int | None, typer.Option(metavar="SECONDS", help="Lifetime to request.")] = None,
    print_answer: Annotated[bool, typer.Option("--print", help="Print the token answer as JSON, and end.")] = False,
    password: Annotated[bool, typer.Option("--password", help="Print only the MQTT password, and end.")] = False,
    publish: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC=MESSAGE", help="Publish; may be repeated.")
    ] = None,
    subscribe: Annotated[
        list[str] | None, typer.Option(metavar="FILTER", help="Subscribe, and stay; may be repeated.")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Stay connected and renew the token, until Ctrl-C.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Act as a device. Without options: a tour with the example device, from its token to the end of its connection."""
    report = report_json if as_json else report_text
    works = bool(print_answer or password or publish or subscribe or stay)
    if not works:
        if client_id or secret_file or private_key or server or scope or expires_in is not None:
            raise Misconfigured("nothing to do: add --print, --password, --publish, --subscribe or --stay")
        from app.cli.tour import run_tour  # noqa: PLC0415 - `--help` stays quick

        run_tour(running_dev(state), report)
        return
    from app.cli import device_live  # noqa: PLC0415 - `--help` stays quick

    options = device_live.DeviceOptions(
        client_id=client_id,
        secret_file=secret_file,
        private_key=private_key,
        server=server,
        state=state,
        scope=scope,
        expires_in_s=expires_in,
        messages=tuple(_message(text) for text in publish or ()),
        filters=tuple(subscribe or ()),
        stays=stay or bool(subscribe),
    )
    if print_answer:
        device_live.print_token_answer(options)
    elif password:
        device_live.print_mqtt_password(options)
    else:
        device_live.run_client(options, report)


def _message(text: str) -> tuple[str, str]:
    topic, equals, message = text.partition("=")
    if not (topic and equals):
        raise Misconfigured(f"--publish {text}: write TOPIC=MESSAGE")
    return topic, message
