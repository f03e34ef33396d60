"""When the bytes of a request arrived, as the kernel noted it.

A time that this process takes itself is late by its pauses: calls that came one after the other would seem to arrive at
once. Linux notes when each segment of a TCP stream arrives, and returns that time with the bytes (``SO_TIMESTAMPNS``,
socket(7)); over loopback that is within the system call by which the caller sends. asyncio reads a connection with
``recv`` of the socket that ``accept`` returned, so a subclass of ``socket`` is enough. Where there is no such time
(another system, another kind of loop) the time of reading is used, and counts as uncertain.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from app.sandbox.call_meter import Arrival
from app.sandbox.pauses import PauseMeter

_SO_TIMESTAMPNS: Final = 35
"""asm-generic/socket.h; the socket module does not have it."""
_TIMESPEC: Final = struct.Struct("@ll")
_ANCILLARY_BYTES: Final = 64
_MAX_AGE_S: Final = 60.0
"""A greater age means that the wall clock was changed, from which the kernel's times are taken."""


class ArrivalTimes:
    """When the last bytes of each open connection arrived."""

    def __init__(self, pauses: PauseMeter) -> None:
        self._pauses = pauses
        self._last: dict[int, tuple[float, bool]] = {}
        """By file descriptor: monotonic time, and whether the kernel noted it."""

    def note_read(self, descriptor: int, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        """Note that bytes were read just now, with what the kernel sent beside them."""
        now_s = time.monotonic()
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                age_s = time.time() - seconds - nanoseconds * 1e-9
                if 0 <= age_s <= _MAX_AGE_S:
                    self._pauses.note_pause(age_s, now_s)
                    self._last[descriptor] = now_s - age_s, True
                    return
        self._last[descriptor] = now_s, False

    def find(self, connection: socket.socket | None) -> Arrival:
        """Return when the last bytes of a connection arrived; now for one that has ended."""
        noted = self._last.get(connection.fileno()) if connection is not None else None
        at_s, is_exact = noted or (time.monotonic(), False)
        return Arrival(at_s) if is_exact else Arrival(at_s, self._pauses.recent_s)


class ArrivalListener(socket.socket):
    """A listening socket whose connections note when their bytes arrive."""

    arrivals: ArrivalTimes

    def note_arrivals(self, arrivals: ArrivalTimes) -> None:
        """Note them there, from the next connection on."""
        self.arrivals = arrivals
        if sys.platform == "linux":
            self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # its connections inherit it

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        accepted, address = super().accept()
        connection = _ArrivalSocket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        connection.arrivals = self.arrivals
        return connection, address


class _ArrivalSocket(socket.socket):
    arrivals: ArrivalTimes

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Read, and note when the last of the bytes arrived."""
        data, ancillary, _, _ = self.recvmsg(bufsize, _ANCILLARY_BYTES, flags)
        self.arrivals.note_read(self.fileno(), ancillary)
        return data
