from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from app.settings import Settings
from app.web import open_files
from app.web.aiohttp_internals import LimitedRunner
from app.web.connections import ConnectionLimits
from app.web.open_files import backlog_of, connection_limits, needed_files, raise_open_files, share_files


@pytest.fixture
def limit() -> Iterator[None]:
    """The limit of this process as it was, after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("limit")
def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    """Shells and service managers start a process with 1,024, whatever it may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    assert raise_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512


def test_a_system_that_allows_less_than_its_hard_limit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """MacOS has an infinite hard limit, and refuses more than 10,240."""
    granted: list[int] = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        if limits[0] > 10_240:
            raise ValueError("invalid argument")
        granted.append(limits[0])

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_open_files() == 10_240
    assert granted == [10_240]


@pytest.mark.parametrize("files", [64, 256, 1024, 4096, 11_000, 20_000, 1_048_576])
def test_connections_leave_files_for_all_else(settings: Settings, files: int) -> None:
    """Whatever the limit, a third of it or what the cloud's calls and Redis need is left; never more than allowed."""
    total, reserve = share_files(files, settings)
    assert 0 < total <= settings.max_connections
    assert 0 < reserve <= 128
    assert total + reserve <= max(files // 2, files - (needed_files(settings) - settings.max_connections - 128))


def test_enough_files_are_not_mentioned(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many files as MAX_CONNECTIONS needs, there is no entry in the log, and with one less there is."""
    needed = needed_files(settings)
    for files, entries in ((needed, 0), (needed - 1, 1)):
        monkeypatch.setattr(open_files, "raise_open_files", lambda files=files: files)
        with capture_logs() as logs:
            limits = connection_limits(settings)
        assert len(logs) == entries
        assert (limits.total == settings.max_connections) == (not entries)


@pytest.mark.parametrize(("name", "value"), [("egress_qps", 1e9), ("egress_qps", 0.001), ("max_connections", 16)])
def test_extreme_settings_leave_connections(settings: Settings, name: str, value: Any) -> None:
    """A quota of a billion does not take all files, and few connections have a small reserve."""
    total, reserve = share_files(1024, settings.model_copy(update={name: value}))
    assert total >= 16
    assert reserve >= 1


@pytest.mark.parametrize(("open_files", "backlog"), [(1024, 128), (8191, 128), (8192, 1024)])
def test_the_backlog_fits_the_open_files(open_files: int, backlog: int) -> None:
    """Where few files may be open, few connections may wait to be accepted in one turn of the loop."""
    assert backlog_of(open_files) == backlog


async def test_a_fleet_that_connects_at_once_finds_room_until_it_is_accepted() -> None:
    """While the loop is busy hundreds of connections wait; Linux resets those for which there is no room."""
    runner = LimitedRunner(web.Application(), limits=ConnectionLimits(backlog=400))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with ExitStack() as stack:
            for _ in range(400):  # without a turn of the loop, so that none is accepted
                stack.enter_context(socket.create_connection(runner.addresses[0], timeout=0.5))
    finally:
        await runner.cleanup()
