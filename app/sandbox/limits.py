"""The cloud's quotas (guide chapter 8): calls a second for an account and API, and for a source IP over all APIs.

How the cloud counts is not documented. Here a second is fixed, as long as the process's clock says the same whole
second. A window that slides would be stricter, and would blame callers for a pause of this process's own; what it
would have seen is measured all the same: ``peak`` is the most within any second whatever.

Beyond an API's limit a call gets that API's overflow code. Beyond an address's limit the address is blocked: "blocked
completely", says the guide, so its connections are closed without an answer until ``block_s`` have passed.
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
"""How long an address stays blocked; the documents say nothing."""

_MAX_ADDRESSES: Final = 1000
"""Addresses remembered; a bound, so that callers cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Calls a second. What has no figure has no limit."""

    qps: Mapping[str, int] = field(default_factory=dict)
    """For each action and account."""
    egress_qps: int | None = None
    """For each source address over all actions."""
    block_s: float = BLOCK_S


_TODAY: Final = {action.name: action.qps for action in ACTIONS.values()}

PRESETS: Final = MappingProxyType(
    {
        "v3": Limits(_TODAY, EGRESS_QPS),
        "v2": Limits({**_TODAY, **PREVIOUS_QPS}, EGRESS_QPS),
        "off": Limits(),
    }
)
"""Today's generation of instances, the previous one (FACTS 0.1), and none at all."""


@dataclass(slots=True)
class Meter:
    """What came under one limit."""

    peak: int = 0
    """The most within any one second, refused calls among them."""
    refused: int = 0
    """Calls refused by the limit; of an address, calls in vain while it was blocked."""
    _second: int = -1
    _in_second: int = 0
    _recent: deque[float] = field(default_factory=deque)

    def count(self, now_s: float) -> int:
        """Count a call and return how many there were in this whole second."""
        if math.floor(now_s) != self._second:
            self._second, self._in_second = math.floor(now_s), 0
        self._in_second += 1
        self._recent.append(now_s)
        while self._recent[0] <= now_s - 1:
            self._recent.popleft()
        self.peak = max(self.peak, len(self._recent))
        return self._in_second

    def forgive(self) -> None:
        """Let the calls of the second that runs count no more."""
        self._in_second = 0


class Throttle:
    """Counts calls and tells which are too many."""

    def __init__(self, limits: Limits, now_s: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.calls: dict[tuple[str, str], Meter] = {}
        """By account and action."""
        self.addresses: dict[str, Meter] = {}
        self._blocked_until_s: dict[str, float] = {}
        self._now_s = now_s

    def admits_address(self, address: str) -> bool:
        """Count a request from ``address``, whatever is in it; ``False`` if the address is blocked."""
        now_s = self._now_s()
        if address not in self.addresses and len(self.addresses) >= _MAX_ADDRESSES:
            del self.addresses[next(iter(self.addresses))]
        meter = self.addresses.setdefault(address, Meter())
        limit = self.limits.egress_qps
        too_many = meter.count(now_s) > (math.inf if limit is None else limit)
        if self._blocked_until_s.get(address, 0.0) <= now_s:
            if not too_many:
                return True
            self.block(address, self.limits.block_s)
        meter.refused += 1
        return False

    def admits(self, account: str, action: str) -> bool:
        """Count a call whose caller is proven; ``False`` if the account has called this action too often."""
        meter = self.calls.setdefault((account, action), Meter())
        if meter.count(self._now_s()) <= self.limits.qps.get(action, math.inf):
            return True
        meter.refused += 1
        return False

    def block(self, address: str, for_s: float) -> None:
        """Block ``address`` from now for ``for_s`` seconds."""
        self._blocked_until_s[address] = self._now_s() + for_s

    def blocked_for_s(self) -> dict[str, float]:
        """Return the addresses that are blocked, each with the seconds that remain."""
        now_s = self._now_s()
        self._blocked_until_s = {key: until_s for key, until_s in self._blocked_until_s.items() if until_s > now_s}
        return {address: until_s - now_s for address, until_s in self._blocked_until_s.items()}

    def unblock(self) -> None:
        """Let every address in again."""
        self._blocked_until_s.clear()
        for meter in self.addresses.values():
            meter.forgive()  # or the next call would block it again within this second

    def reset(self) -> None:
        """Measure from nought again. The second that runs is counted anew; who is blocked stays so."""
        self.calls.clear()
        self.addresses.clear()
