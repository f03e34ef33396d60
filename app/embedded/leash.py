"""Run another program that ends when the process that started it ends, even by ``kill -9``.

It is run by its path and imports nothing of ``app``: ``python -I -S leash.py PARENT_PID METHOD COMMAND…``. Its stdin is
a pipe whose other end only the parent has open. The program replaces this one and keeps its process ID, so the parent
can signal and await it. It gets its own session, and so its own process group.

There are two methods. ``kernel`` (Linux): the kernel sends SIGKILL when the parent ends (``prctl(2)``,
PR_SET_PDEATHSIG). ``pipe`` (elsewhere): a watcher process reads from the pipe. If the pipe closes without the byte that
dismisses the watcher, the parent has ended, and the watcher kills the process group of the command.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then run the command in its place."""
    parent, method, *command = sys.argv[1:]
    if os.getpgid(0) != os.getpid():
        # Its own session: Ctrl-C in the terminal reaches only the parent, and the group has no other member.
        os.setsid()
    if method == "kernel" and tie_by_kernel():
        # The parent may have ended before the kernel was asked: then no signal will come.
        if os.getppid() != int(parent):
            sys.exit(1)
    else:
        tie_by_pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the purpose of this program; without a shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def tie_by_kernel() -> bool:
    """Ask the kernel for SIGKILL when the parent ends; return whether it will send it."""
    import ctypes  # noqa: PLC0415 - slow to load, and not needed by the other method

    libc = ctypes.CDLL(None, use_errno=True)
    return hasattr(libc, "prctl") and libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def tie_by_pipe() -> None:
    """Start a watcher of the pipe on stdin, which kills this process group when the parent has ended."""
    group = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    # In its own session, or it would kill itself; forked twice, so that the command need not reap it.
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
