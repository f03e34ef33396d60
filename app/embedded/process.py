"""A child process that never outlives its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Self

Way = Literal["kernel", "pipe"]

_LEASH: Final = Path(__file__).with_name("leash.py")
_DEFAULT_WAY: Final[Way] = "kernel" if sys.platform == "linux" else "pipe"


def leashed(command: Sequence[str], *, way: Way = _DEFAULT_WAY) -> list[str]:
    """Return ``command`` so wrapped that it dies with this process; its stdin must be a pipe from here (``leash``)."""
    return [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), way, *command]


class Child:
    """A running child in a session of its own, so that Ctrl-C in the terminal reaches the parent alone."""

    def __init__(self, process: asyncio.subprocess.Process, leash: int) -> None:
        """``leash`` is the writing end of the child's stdin: while it is open, the child's watcher waits."""
        self._process = process
        self._leash: int | None = leash

    @classmethod
    async def start(cls, command: Sequence[str], *, env: Mapping[str, str], log: Path, way: Way = _DEFAULT_WAY) -> Self:
        """Start ``command``; what it prints is appended to ``log``. Raises ``OSError`` if it cannot be started.

        To be called from the main thread: the kernel takes the death of the calling *thread* for the parent's.
        """
        reading, writing = os.pipe()
        try:
            with log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *leashed(command, way=way),
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
        """Whether it has not ended yet, as far as known."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait until it ends; returns the exit code, or minus the signal that ended it."""
        code = await self._process.wait()
        if self._leash is not None:
            # Dismisses the watcher: its group's number may soon belong to somebody else.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._leash, b".")
            os.close(self._leash)
            self._leash = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child's whole process group, if it still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, *, within_s: float) -> int:
        """Ask it to end; after ``within_s`` seconds end it by force. Returns as ``wait``."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()


def describe_exit(code: int) -> str:
    """Put an exit code as of ``Child.wait`` into words: ``signal 9`` or ``exit code 2``."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
