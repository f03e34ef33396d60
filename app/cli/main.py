"""All verbs, and the one place that prints an expected error as one line and ends with its exit code."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from app import __version__
from app.cli import (
    api_keys,
    audit,
    call,
    dev,
    device,
    devices,
    devices_file,
    jobs,
    operators,
    policy,
    sandbox,
    serve,
    tokens,
    tokens_revoke,
)
from app.errors import Misconfigured, Refusal
from app.value_errors import explain_value_error

PROGRAM = "python -m app"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables would show secrets
    rich_markup_mode=None,  # keeps the lines of the list of settings in `serve --help`
)
app.command("dev")(dev.run_dev)
app.command("serve", epilog=serve.settings_help())(serve.run_instance)
app.command("sandbox")(sandbox.sandbox)
devices.app.command("import")(devices_file.import_devices)
devices.app.command("export")(devices_file.export_devices)
app.add_typer(devices.app, name="devices")
tokens.app.command("revoke")(tokens_revoke.revoke_tokens)
app.add_typer(tokens.app, name="tokens")
app.add_typer(jobs.app, name="jobs")
app.add_typer(api_keys.app, name="keys")
app.add_typer(operators.app, name="operators")
app.add_typer(policy.app, name="policy")
app.command("audit")(audit.audit)
app.command("device")(device.run_device)
app.command("call", context_settings=call.CONTEXT, add_help_option=False)(call.run_call)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"mqtt-token-server {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Issue short-lived, topic-scoped tokens to MQTT devices over HTTPS, and revoke them."""


def run() -> None:
    """Run the verb that the command line names.

    Exit codes: 1 for what was refused or failed, 2 for a wrong command line or settings, 130 after Ctrl-C.
    """
    try:
        code = app(prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        _end_usage(error)
    except Misconfigured as error:
        _end(str(error), 2)
    except Refusal as error:
        # The user of the command line is an operator and may see the cause.
        _end(f"{error.description} ({error.cause})" if error.cause else error.description, 1)
    except typer.Abort:
        _end("the input ended before the question was answered: nothing was done", 1)
    except KeyboardInterrupt:
        code = 130
    if code:
        sys.exit(code)


def _end_usage(error: typer.TyperException) -> NoReturn:
    """Print what is wrong with the command line as one line, in the form of all other errors."""
    message = error.format_message()
    if message.startswith("Usage:"):  # a group of verbs without a verb: its help
        print(message, file=sys.stderr)
        sys.exit(2)
    if isinstance(error.__cause__, ValidationError) and isinstance(error, typer.BadParameter) and error.param:
        message = f"{error.param.get_error_hint().strip(chr(39))}: {explain_value_error(error.__cause__)}"
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    _end(f"{message[:1].lower()}{message[1:].removesuffix('.')} (see `{path} --help`)", 2)


def _end(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
