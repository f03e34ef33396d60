"""What every test may ask for: a real Valkey, and what a missing optional program means."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

import hypothesis
import pytest
import redis

from tests import processes

# A machine that is busy with other things is no reason to fail, and the same examples run everywhere.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")

# A run in the background of a script inherits that Ctrl-C is ignored, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Valkey, one for the whole run; ``redis_url`` gives it empty."""
    with processes.running_valkey(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(valkey: str) -> Iterator[str]:
    """The URL of a real Valkey without any data, scripts or clients' leftovers from other tests."""
    with redis.Redis.from_url(valkey) as client:
        processes.trust_server(client)
    yield valkey
    with redis.Redis.from_url(valkey) as client:
        client.flushall()
        client.script_flush()


@pytest.fixture(scope="session")
def need_program() -> Callable[[str], str]:
    """A function that finds a program that is no Python package, or skips; with REQUIRE_OPTIONAL=1 it fails."""

    def find(name: str) -> str:
        return shutil.which(name) or lack(f"{name} is not installed (.ci/run installs it)")

    return find


def lack(message: str) -> NoReturn:
    """Do without a test that needs what is not there; with REQUIRE_OPTIONAL=1 that is a failure."""
    if os.environ.get("REQUIRE_OPTIONAL") == "1":
        pytest.fail(message)
    pytest.skip(message)
