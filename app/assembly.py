"""Putting an instance together: the web application on its services, and the services alone for the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from app.container import StoreServices, build_services, build_store_services, build_stores, fields_of, run_services
from app.errors import Misconfigured
from app.logs import configure_logging
from app.model.actors import Actor
from app.settings import Settings
from app.web.middleware import envelope
from app.web.open_files import connection_limits
from app.web.request_input import MAX_BODY_BYTES
from app.web.route import SERVICES
from app.web.routes import add_routes, render_refusal
from app.web.shutdown import Runner

GUNICORN_HALTS: Final = 4
"""The exit code with which a worker ends gunicorn itself; after any other it starts the next worker, without end."""


def build(settings: Settings) -> web.Application:
    """Build an instance. Nothing is connected before it starts; Redis may come later.

    Raises ``Misconfigured`` for a setting or policy that cannot work.
    """
    app = web.Application(middlewares=[envelope(render_refusal)], client_max_size=MAX_BODY_BYTES)
    app[SERVICES] = build_services(settings)
    add_routes(app)
    app.cleanup_ctx.append(_run)
    return app


async def _run(app: web.Application) -> AsyncIterator[None]:
    async with run_services(app[SERVICES]):
        yield


def runner(settings: Settings) -> Runner:
    """Build an instance that limits its connections, and drains before it stops. Raises ``Misconfigured``."""
    return Runner(build(settings), drain_s=settings.drain_s, limits=connection_limits(settings))


async def serve_app() -> Runner:
    """Build an instance from the environment, for gunicorn's aiohttp worker. Ends with one line if it cannot."""
    try:
        settings = Settings.load(os.environ)
        configure_logging(settings.log_level)
        return runner(settings)
    except Misconfigured as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(GUNICORN_HALTS)


@dataclass(frozen=True)
class AdminServices(StoreServices):
    """What an operator works with at the command line; the audit names them ``actor``."""

    actor: Actor


@asynccontextmanager
async def open_admin_services(settings: Settings, *, actor: Actor) -> AsyncIterator[AdminServices]:
    """Open what needs Redis alone, for the command line; the audit names ``actor`` for all that is done.

    Raises ``Misconfigured`` and ``Unavailable``.
    """
    stores = build_stores(settings)
    # An instance that delivers revocations looks at the queue by itself.
    services = build_store_services(settings, stores, wake=lambda: None)
    try:
        await stores.redis.learn_time()
        yield AdminServices(**fields_of(services), actor=actor)
    finally:
        await stores.redis.close()
