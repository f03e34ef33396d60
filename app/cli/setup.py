"""Finds the set-up a verb works on: the environment, or that of a `dev` by its state directory."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", help="State directory of a dev. Left out: the environment, else .local.", show_default=False
    ),
]
Tell = Callable[[str, str], None]
"""Tells one step of a verb: its name, and what happened."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def environment(state: Path | None) -> Mapping[str, str]:
    """Return the settings as text: of the `dev` at ``state`` if given, else the environment, else of ``.local``.

    Never a mixture: half of one set-up and half of another would be a third that nobody meant. Raises
    ``Misconfigured``.
    """
    if state is None:
        if "REDIS_URL" in os.environ or "REDIS_URL_FILE" in os.environ:
            return os.environ
        if not _file(DEFAULT_STATE).exists():
            raise Misconfigured(f"REDIS_URL is not set, and no dev ran on {DEFAULT_STATE}: set it, or name a --state")
        state = DEFAULT_STATE
    from app.embedded.example import BrokenState, read_settings  # noqa: PLC0415 - only verbs beside a dev need it

    try:
        return read_settings(_file(state))
    except FileNotFoundError:
        raise Misconfigured(f"{state} is no state directory of a dev: start `dev --state {state}` first") from None
    except (OSError, BrokenState) as error:
        raise Misconfigured(str(error)) from error


def settings(state: Path | None) -> Settings:
    """Return the set-up as ``environment`` finds it. Raises ``Misconfigured``."""
    return Settings.load(environment(state))


def running_dev(state: Path | None) -> dict[str, Any]:
    """Return what ``dev.json`` says of the running `dev` at ``state`` (``.local`` if left out).

    Raises ``Misconfigured`` if none runs there.
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


def _file(state: Path) -> Path:
    return state / "settings.env"


@contextlib.asynccontextmanager
async def open_admin_services(settings: Settings) -> AsyncIterator[AdminServices]:
    """Open what operators work with, for one verb. Raises ``Misconfigured`` and ``Unavailable``."""
    from app import assembly  # noqa: PLC0415 - only verbs that reach Redis or the cloud need these

    _log_to_stderr()
    async with assembly.open_admin_services(settings, actor=_actor()) as office:
        yield office


@contextlib.asynccontextmanager
async def open_registry(settings: Settings) -> AsyncIterator[Registry]:
    """Open the device registry of a set-up, for one verb. Raises ``Misconfigured`` and ``Unavailable``."""
    async with open_admin_services(settings) as office:
        yield office.registry


@contextlib.asynccontextmanager
async def open_cloud(settings: Settings) -> AsyncIterator[CloudClient]:
    """Open the cloud's API of a set-up, for one verb. Raises ``Misconfigured``; what a call raises, as a refusal."""
    from app import upstream  # noqa: PLC0415
    from app.cloud.errors import CloudError  # noqa: PLC0415

    _log_to_stderr()
    try:
        async with upstream.open_cloud_alone(settings) as cloud:
            yield cloud
    except CloudError as error:
        raise Refusal(str(error), cause=error.error_hint) from error


def _log_to_stderr() -> None:
    """What the services log is for an instance's log; here stdout is the verb's answer."""
    import structlog  # noqa: PLC0415

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _actor() -> Actor:
    """Return how the audit names whoever runs this verb: by the account, which may have no name in a container."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return Actor(f"cli:{name}" if _ACCOUNT.fullmatch(name) else f"cli:uid{os.getuid()}")


async def find_device(registry: Registry, client_id: str) -> Device | None:
    """Return a device's record, or None if there is none. Raises ``Unavailable``."""
    try:
        return await registry.get_device(client_id)
    except NotFound:
        return None
