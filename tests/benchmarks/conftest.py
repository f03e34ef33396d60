"""A small site, shared by all tests of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks import site


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[site.Site]:
    """All processes of a benchmark, with a few devices."""
    with site.running(tmp_path_factory.mktemp("bench"), devices=4) as running:
        yield running
