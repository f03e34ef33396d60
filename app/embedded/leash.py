"""Become another program that dies with the process that started it, even by ``kill -9``.

Run by its path, with nothing of ``app`` imported: ``python -I -S leash.py PARENT_PID WAY COMMAND…``, stdin being a
pipe whose other end only the parent holds. The process ID stays the same, so the parent signals and awaits the
command itself. It gets a session, and so a process group, of its own.

Two ways. ``kernel`` (Linux): the kernel sends SIGKILL when the parent dies (``prctl(2)``, PR_SET_PDEATHSIG).
``pipe`` (elsewhere): a watcher waits at the pipe; when it closes without the byte that dismisses it, the parent is dead
and the command's process group is killed.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, way, *command = sys.argv[1:]
    if os.getpgid(0) != os.getpid():
        # A session of its own: Ctrl-C in the terminal reaches the parent alone, and the group holds nobody else.
        os.setsid()
    if way == "kernel" and tie_by_kernel():
        # The parent may have died before the tie was made; then nobody would ever cut it.
        if os.getppid() != int(parent):
            sys.exit(1)
    else:
        tie_by_pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the very purpose; no shell is wanted
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def tie_by_kernel() -> bool:
    """Ask the kernel for SIGKILL at the parent's death; tell whether it agreed."""
    import ctypes  # noqa: PLC0415 - not needed, and slow to load, on systems without prctl

    libc = ctypes.CDLL(None, use_errno=True)
    return hasattr(libc, "prctl") and libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def tie_by_pipe() -> None:
    """Leave a watcher at the pipe on stdin that kills this process group when the parent is gone."""
    group = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    # In a session of its own, or it would kill itself; forked twice, so that the command never has to reap it.
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    if os.read(0, 1) == b"":
        os.killpg(group, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
