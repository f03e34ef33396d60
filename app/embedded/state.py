"""The state directory of one `dev`: locked while in use, its files readable only by their owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class StateInUse(Exception):
    """Another `dev` uses this state directory; the message says which."""


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Lock ``state`` for one `dev`; create it if it does not exist.

    The kernel releases the lock when the process ends, also after ``kill -9``. Raises ``StateInUse``, ``OSError``.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StateInUse(
                f"{state} is in use by another dev (pid {file.read().strip() or 'unknown'}): "
                "stop it, or choose another directory with --state"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, completely or not at all."""
    # mkstemp creates the file with mode 0600: no other user can read the secret even for a moment.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def fresh_log(state: Path, name: str) -> Path:
    """Return the path of a part's log for this run; the log of the run before is renamed to ``.1``."""
    directory = state / "logs"
    directory.mkdir(mode=0o700, exist_ok=True)
    log = directory / f"{name}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    return log
