"""A process that runs one job after another: one line of JSON in, one line of JSON out, until its input ends."""

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
    """A handle of the process, for its parent."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Use ``started``."""
        self._process = process

    def do(self, **job: Any) -> dict[str, Any]:
        """Run a job. Raises ``RuntimeError`` if the worker died; the reason is on standard error."""
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
    """Start ``python -m COMMAND``. It ends with its input, and so also when this process is killed."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        yield Worker(process)
        process.communicate(timeout=10)


def serve(work: Callable[[Job], Awaitable[dict[str, Any]]]) -> None:
    """Run the process: each job in its own event loop."""
    for line in sys.stdin:
        print(json.dumps(uvloop.run(work(json.loads(line)))), flush=True)  # type: ignore[arg-type]
