"""``serve``: one instance of the server, configured by the environment."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import textwrap

from app.errors import Misconfigured
from app.model.secrets import Secret
from app.settings import Settings


def run_instance() -> None:
    """Run one instance of the server. The environment variables below configure it."""
    settings = Settings.load(os.environ)
    import uvloop  # noqa: PLC0415 - `serve --help` stays quick

    from app.logs import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level)
    try:
        uvloop.run(_serve(settings))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Misconfigured(f"PORT: {settings.port} on {settings.host} is in use: set another") from error
        if error.errno in {errno.EADDRNOTAVAIL, errno.EACCES} or isinstance(error, socket.gaierror):
            raise Misconfigured(f"HOST, PORT: cannot listen on {settings.host}:{settings.port}: {error}") from error
        raise


async def _serve(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT, then drain and stop; a second signal stops at once."""
    from aiohttp import web  # noqa: PLC0415

    from app.assembly import runner  # noqa: PLC0415

    instance = runner(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await instance.setup()
    try:
        await web.TCPSite(instance, settings.host, settings.port).start()
    except OSError:
        await instance.stop_at_once()
        raise
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    await instance.cleanup()


def settings_help() -> str:
    r"""Return every setting with its default and help, as text that the formatter does not wrap (``\b``)."""
    paragraphs = ["\b\nEnvironment variables:"]
    # The quotas of the actions come last: pydantic has inherited fields first.
    for name, field in sorted(Settings.model_fields.items(), key=lambda item: item[0].endswith("_qps")):
        kind = field.annotation
        default = "required" if field.is_required() else f"default {_default_text(field.default)}"
        note = f"; or {name.upper()}_FILE" if isinstance(kind, type) and issubclass(kind, Secret) else ""
        text = textwrap.fill(field.description or "", 92, initial_indent="    ", subsequent_indent="    ")
        paragraphs.append(f"\b\n{name.upper()} ({default}{note})\n{text}")
    return "\n\n".join(paragraphs)


def _default_text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if isinstance(default, Secret) or default == "" else str(default)
