"""A command in a terminal of its own, as a person would see it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_CONTROL: Final = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Command:
    """Runs until it ends, or is killed with the block; all that it draws is kept."""

    def __init__(self, words: Sequence[str], place: Path) -> None:
        """Start it in the directory ``place``."""
        self.began = time.monotonic()
        self._drawn = b""
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        self._process = subprocess.Popen(
            words, cwd=place, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._master)

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; returns the exit code. Raises ``subprocess.TimeoutExpired``."""
        code = self._process.wait(timeout_s)
        self._reader.join()
        return code

    @property
    def said(self) -> str:
        """All that it has drawn, without the terminal's own commands."""
        return _CONTROL.sub(b"", self._drawn).decode(errors="replace")

    def found(self, pattern: str) -> list[str]:
        """Return what a pattern's first group found, each time it was another than the last."""
        found: list[str] = []
        for match in re.finditer(pattern, self.said):
            if found[-1:] != [match[1]]:
                found.append(match[1])
        return found

    def _read(self) -> None:
        # Linux ends a terminal without a process with an error, others with nothing.
        with suppress(OSError):
            while read := os.read(self._master, 4096):
                self._drawn += read
