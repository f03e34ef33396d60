"""All verbs, and the one place where an expected failure becomes one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app import __version__
from app.cli import (
    audit,
    call,
    dev,
    device,
    devices,
    devices_file,
    jobs,
    keys,
    operators,
    policy,
    sandbox,
    serve,
    tokens,
    tokens_revoke,
)
from app.errors import Misconfigured, Refusal

app = typer.Typer(
    name="python -m app",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables would show secrets
    rich_markup_mode=None,  # the list of settings in `serve --help` keeps its lines
)
app.command()(dev.dev)
app.command(epilog=serve.settings_help())(serve.serve)
app.command()(sandbox.sandbox)
devices.app.command("import")(devices_file.import_devices)
devices.app.command("export")(devices_file.export_devices)
app.add_typer(devices.app, name="devices")
tokens.app.command("revoke")(tokens_revoke.revoke)
app.add_typer(tokens.app, name="tokens")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(operators.app, name="operators")
app.add_typer(policy.app, name="policy")
app.command()(audit.audit)
app.command()(device.device)
app.command(context_settings=call.CONTEXT, add_help_option=False)(call.call)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"mqtt-token-server {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hands MQTT devices short-lived, topic-scoped tokens over HTTPS, and takes them back."""


def run() -> None:
    """Run the verb named on the command line.

    Exit codes: 1 for what was refused or failed, 2 for a wrong command line or set-up, 130 after Ctrl-C.
    """
    try:
        app()
    except Misconfigured as error:
        _end(str(error), 2)
    except Refusal as error:
        # Who stands at the command line is the operator: the cause is for them.
        _end(f"{error.description} ({error.cause})" if error.cause else error.description, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _end(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
