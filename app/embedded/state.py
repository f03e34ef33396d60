"""The state directory of one `dev`: locked while in use, its files readable by their owner alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class StateInUse(Exception):
    """Another `dev` runs on this state directory; the message says which."""


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold ``state``, made if need be, for one `dev`.

    The kernel gives the lock up with the process, so ``kill -9`` leaves none behind. Raises
    ``StateInUse``, ``OSError``.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StateInUse(
                f"{state} is in use by another dev (pid {file.read().strip() or 'unknown'}): "
                "stop that one, or choose another directory with --state"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, wholly or not at all."""
    # mkstemp gives mode 0600 from the first moment: a secret is never readable, however briefly.
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
    """Return the path of a part's log for this run; the run before keeps its own under ``.1``."""
    directory = state / "logs"
    directory.mkdir(mode=0o700, exist_ok=True)
    log = directory / f"{name}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    return log
