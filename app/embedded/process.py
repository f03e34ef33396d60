"""A child process that ends with its parent at the latest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Self

LeashMethod = Literal["kernel", "pipe"]

_LEASH: Final = Path(__file__).with_name("leash.py")
_DEFAULT_METHOD: Final[LeashMethod] = "kernel" if sys.platform == "linux" else "pipe"


def leashed(command: Sequence[str], *, method: LeashMethod = _DEFAULT_METHOD) -> list[str]:
    """Wrap ``command`` so that it ends with this process; its stdin must be a pipe from here (see ``leash``)."""
    return [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), method, *command]


class Child:
    """A running child process in its own session, so that Ctrl-C in the terminal reaches only the parent."""

    def __init__(self, process: asyncio.subprocess.Process, leash: int) -> None:
        """``leash`` is the writing end of the child's stdin; the child's watcher waits while it is open."""
        self._process = process
        self._leash: int | None = leash

    @classmethod
    async def start(
        cls, command: Sequence[str], *, env: Mapping[str, str], log: Path, method: LeashMethod = _DEFAULT_METHOD
    ) -> Self:
        """Start ``command`` and append its output to ``log``. Raises ``OSError`` if it cannot be started.

        Call it from the main thread: for the kernel the parent is the calling *thread*.
        """
        reading, writing = os.pipe()
        try:
            with log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *leashed(command, method=method),
                    env=dict(env),
                    stdin=reading,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        return cls(process, writing)

    @property
    def pid(self) -> int:
        """The process ID of the command itself."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is not known to have ended."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait until it ends. Return its exit code, or the negative number of the signal that ended it."""
        code = await self._process.wait()
        if self._leash is not None:
            # Dismiss the watcher: another process group may soon get this number.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._leash, b".")
            os.close(self._leash)
            self._leash = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group of the child, if it still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, *, within_s: float) -> int:
        """Send SIGTERM, and after ``within_s`` seconds SIGKILL. Returns as ``wait``."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()


def describe_exit(code: int) -> str:
    """Describe an exit code of ``Child.wait``: ``signal 9`` or ``exit code 2``."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
