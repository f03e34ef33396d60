"""Finds the settings a verb works with, in the environment or in the state directory of a `dev`, and opens services."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from app.errors import Misconfigured, NotFound, Refusal
from app.model.actors import Actor
from app.model.devices import Device
from app.settings import Settings

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.cloud.client import CloudClient
    from app.service.registry import Registry

DEFAULT_STATE: Final = Path(".local")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9._@\\-]{1,64}")
_Result = TypeVar("_Result")

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="State directory of a dev. Default: the environment, else .local.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def environment(state: Path | None) -> Mapping[str, str]:
    """Return the settings as text: those of the `dev` at ``state``, else of the environment, else of ``.local``.

    Never a mixture of two. Raises ``Misconfigured``.
    """
    if state is None:
        if "REDIS_URL" in os.environ or "REDIS_URL_FILE" in os.environ:
            return os.environ
        if not _settings_file(DEFAULT_STATE).exists():
            raise Misconfigured(
                f"REDIS_URL is not set, and {DEFAULT_STATE} has no settings of a dev: set the variables that "
                "`serve --help` lists, or name the state directory of a dev with --state"
            )
        state = DEFAULT_STATE
    from app.embedded.example import BrokenState, read_settings  # noqa: PLC0415 - only verbs beside a dev need it

    try:
        return read_settings(_settings_file(state))
    except FileNotFoundError:
        raise Misconfigured(f"{state} is not the state directory of a dev: start `dev --state {state}` first") from None
    except (OSError, BrokenState) as error:
        raise Misconfigured(str(error)) from error


def settings(state: Path | None) -> Settings:
    """Return the settings that ``environment`` finds. Raises ``Misconfigured``."""
    return Settings.load(environment(state))


def running_dev(state: Path | None) -> dict[str, Any]:
    """Return the content of ``dev.json`` of the running `dev` at ``state`` (``.local`` if None).

    Raises ``Misconfigured`` if no `dev` runs there.
    """
    path = (state or DEFAULT_STATE) / "dev.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise Misconfigured(f"no dev is running on {path.parent}: start one, or name its --state") from None
    except ValueError as error:
        raise Misconfigured(f"{path} is damaged ({error}): start dev again") from None
    return found


def read_text(path: Path) -> str:
    """Read a small file named on the command line. Raises ``Misconfigured``."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read {path}: {error}") from error


def _settings_file(state: Path) -> Path:
    return state / "settings.env"


def run_with_services(state: Path | None, work: Callable[[AdminServices], Awaitable[_Result]]) -> _Result:
    """Open the services of an operator, await ``work`` with them, and close them.

    Raises ``Misconfigured``, ``Unavailable``, and what ``work`` raises.
    """

    async def open_and_work() -> _Result:
        async with open_admin_services(settings(state)) as services:
            return await work(services)

    return asyncio.run(open_and_work())


@contextlib.asynccontextmanager
async def open_admin_services(settings: Settings) -> AsyncIterator[AdminServices]:
    """Open the services of an operator, for one verb. Raises ``Misconfigured`` and ``Unavailable``."""
    from app import assembly  # noqa: PLC0415 - only verbs that use Redis or the cloud need these

    _log_to_stderr()
    async with assembly.open_admin_services(settings, actor=_actor()) as services:
        yield services


@contextlib.asynccontextmanager
async def open_cloud(settings: Settings) -> AsyncIterator[CloudClient]:
    """Open the cloud's API, for one verb. Raises ``Misconfigured``, and ``Refusal`` for what a call raises."""
    from app import upstream  # noqa: PLC0415
    from app.cloud.errors import CloudError  # noqa: PLC0415

    _log_to_stderr()
    try:
        async with upstream.open_cloud_alone(settings) as cloud:
            yield cloud
    except CloudError as error:
        raise Refusal(str(error), cause=error.error_hint) from error


def _log_to_stderr() -> None:
    """Log warnings on standard error: standard output is for the verb's result."""
    import structlog  # noqa: PLC0415

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _actor() -> Actor:
    """Return the user of this process for the audit: the account's name, or its number where it has no plain name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # the account of a container may have no name
        name = ""
    return Actor(f"cli:{name}" if _ACCOUNT.fullmatch(name) else f"cli:uid{os.getuid()}")


async def find_device(registry: Registry, client_id: str) -> Device | None:
    """Return a device's record, or None if it is not registered. Raises ``Unavailable``."""
    try:
        return await registry.get_device(client_id)
    except NotFound:
        return None
