"""The cloud's quotas (guide chapter 8): calls a second for an account and API, and for a source IP over all APIs.

How the cloud counts is not documented. The sandbox counts per whole second of the process's clock. A sliding window
would be stricter, and would refuse calls because of a pause of this process. ``peak`` still measures one: it is the
highest count within any period of one second.

Beyond the limit of an API a call gets that API's overflow code. Beyond the limit of an address the address is blocked
("blocked completely" in the guide): its connections are closed without an answer for ``block_s`` seconds.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from app.rpc.catalog import ACTIONS, EGRESS_QPS, PREVIOUS_QPS

BLOCK_S: Final = 60.0
"""How long an address stays blocked; not documented."""

_MAX_ADDRESSES: Final = 1000
"""Addresses that are counted: callers must not be able to fill the memory."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """Calls a second."""

    qps: Mapping[str, int] = field(default_factory=dict)
    """By action, for each account. An action without an entry has no limit."""
    egress_qps: int | None = None
    """For each source address, over all actions; ``None`` for no limit."""
    block_s: float = BLOCK_S


_TODAY: Final = {action.name: action.qps for action in ACTIONS.values()}

QUOTA_PRESETS: Final = MappingProxyType(
    {
        "v3": QuotaLimits(_TODAY, EGRESS_QPS),
        "v2": QuotaLimits({**_TODAY, **PREVIOUS_QPS}, EGRESS_QPS),
        "off": QuotaLimits(),
    }
)
"""The quotas of today's generation of instances, of the previous one (FACTS 0.1), and none."""


@dataclass(slots=True)
class CallMeter:
    """The calls that one limit applies to."""

    peak: int = 0
    """The highest count within any one second, including refused calls."""
    refused: int = 0
    """Calls refused by the limit; for an address, including those while it was blocked."""
    _second: int = -1
    _in_second: int = 0
    _recent: deque[float] = field(default_factory=deque)

    def count_call(self, now_s: float) -> int:
        """Count a call and return the number of calls in this whole second."""
        if math.floor(now_s) != self._second:
            self._second, self._in_second = math.floor(now_s), 0
        self._in_second += 1
        self._recent.append(now_s)
        while self._recent[0] <= now_s - 1:
            self._recent.popleft()
        self.peak = max(self.peak, len(self._recent))
        return self._in_second

    def restart_second(self) -> None:
        """Count the calls of the current second from zero."""
        self._in_second = 0


class Throttle:
    """Counts calls and decides which to refuse."""

    def __init__(self, limits: QuotaLimits, now_s: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.calls: dict[tuple[str, str], CallMeter] = {}
        """By account and action."""
        self.addresses: dict[str, CallMeter] = {}
        self._blocked_until_s: dict[str, float] = {}
        self._now_s = now_s

    def admits_address(self, address: str) -> bool:
        """Count any request from ``address``; return ``False`` if the address is blocked."""
        now_s = self._now_s()
        if address not in self.addresses and len(self.addresses) >= _MAX_ADDRESSES:
            del self.addresses[next(iter(self.addresses))]
        meter = self.addresses.setdefault(address, CallMeter())
        limit = self.limits.egress_qps
        too_many = meter.count_call(now_s) > (math.inf if limit is None else limit)
        if self._blocked_until_s.get(address, 0.0) <= now_s:
            if not too_many:
                return True
            self.block(address, self.limits.block_s)
        meter.refused += 1
        return False

    def admits(self, account: str, action: str) -> bool:
        """Count a verified call; return ``False`` if the account has called this action too often."""
        meter = self.calls.setdefault((account, action), CallMeter())
        if meter.count_call(self._now_s()) <= self.limits.qps.get(action, math.inf):
            return True
        meter.refused += 1
        return False

    def block(self, address: str, for_s: float) -> None:
        """Block ``address`` from now for ``for_s`` seconds."""
        self._blocked_until_s[address] = self._now_s() + for_s

    def blocked_for_s(self) -> dict[str, float]:
        """Return the blocked addresses, each with the remaining seconds."""
        now_s = self._now_s()
        self._blocked_until_s = {key: until_s for key, until_s in self._blocked_until_s.items() if until_s > now_s}
        return {address: until_s - now_s for address, until_s in self._blocked_until_s.items()}

    def unblock(self) -> None:
        """Unblock every address."""
        self._blocked_until_s.clear()
        for meter in self.addresses.values():
            meter.restart_second()  # or the next call would block the address again

    def reset(self) -> None:
        """Count from zero, also within the current second. Blocked addresses stay blocked."""
        self.calls.clear()
        self.addresses.clear()
