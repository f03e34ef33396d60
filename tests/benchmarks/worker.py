"""A process that does one job after another: a line of JSON in, a line of JSON out, until its input ends."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import uvloop

Job = dict[str, Any]


class Worker:
    """The process as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Use ``started``."""
        self._process = process

    def do(self, **job: Any) -> dict[str, Any]:
        """Have a job done. Raises ``RuntimeError`` if the worker died of it; what it died of is on standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended in the middle of {job}")
        result: dict[str, Any] = json.loads(line)
        return result


@contextlib.contextmanager
def started(*command: str, env: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """Start ``python -m COMMAND``. It ends when its input does, so also when this process is killed."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        yield Worker(process)
        process.communicate(timeout=10)


def serve(work: Callable[[Job], Awaitable[dict[str, Any]]]) -> None:
    """Be the process: do each job in an event loop of its own."""
    for line in sys.stdin:
        print(json.dumps(uvloop.run(work(json.loads(line)))), flush=True)  # type: ignore[arg-type]
