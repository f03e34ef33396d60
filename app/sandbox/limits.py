"""The cloud's quotas (guide chapter 8): calls a second for an account and API, and for a source IP over all APIs.

How the cloud counts is not documented. By default the sandbox is strict: a limit holds in every period of one second
(sliding). It can also count per second of the clock (whole). A call counts at the time when its bytes arrived, however
late this process reads them.

Beyond the limit of an API a call gets that API's overflow code, and does not count towards the limit. Beyond the limit
of an address the address is blocked ("blocked completely" in the guide): its connections are closed without an answer
for ``block_s`` seconds, and what is refused meanwhile does not count either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from app.rpc.catalog import ACTIONS, EGRESS_QPS, PREVIOUS_QPS
from app.sandbox.call_meter import Arrival, CallMeter, QuotaWindow

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
    window: QuotaWindow = QuotaWindow.SLIDING


_TODAY: Final = {action.name: action.qps for action in ACTIONS.values()}

QUOTA_PRESETS: Final = MappingProxyType(
    {
        "v3": QuotaLimits(_TODAY, EGRESS_QPS),
        "v2": QuotaLimits({**_TODAY, **PREVIOUS_QPS}, EGRESS_QPS),
        "off": QuotaLimits(),
    }
)
"""The quotas of today's generation of instances, of the previous one (FACTS 0.1), and none."""


class Throttle:
    """Counts calls and decides which to refuse."""

    def __init__(self, limits: QuotaLimits, now_s: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.calls: dict[tuple[str, str], CallMeter] = {}
        """By account and action."""
        self.addresses: dict[str, CallMeter] = {}
        self._blocked_until_s: dict[str, float] = {}
        self._now_s = now_s

    def change_limits(self, limits: QuotaLimits) -> None:
        """Set the limits from the next call on. With another window, counts begin at zero: they would not compare."""
        if limits.window is not self.limits.window:
            self.reset()
        self.limits = limits

    def admits_address(self, address: str, arrival: Arrival) -> bool:
        """Count any request from ``address``; return ``False`` if the address is blocked."""
        if address not in self.addresses and len(self.addresses) >= _MAX_ADDRESSES:
            del self.addresses[next(iter(self.addresses))]
        meter = self.addresses.setdefault(address, CallMeter())
        meter.note_arrival(arrival, self.limits.window)
        if self._blocked_until_s.get(address, 0.0) <= arrival.at_s:
            limit = self.limits.egress_qps
            if limit is None or meter.admit(arrival, limit, self.limits.window):
                return True
            self._blocked_until_s[address] = arrival.at_s + self.limits.block_s
        meter.refused += 1
        return False

    def admits(self, account: str, action: str, arrival: Arrival) -> bool:
        """Count a verified call; return ``False`` if the account has called this action too often."""
        meter = self.calls.setdefault((account, action), CallMeter())
        meter.note_arrival(arrival, self.limits.window)
        limit = self.limits.qps.get(action)
        if limit is None or meter.admit(arrival, limit, self.limits.window):
            return True
        meter.refused += 1
        return False

    def withdraw(self, account: str, action: str, arrival: Arrival) -> None:
        """Do not count an admitted call towards the limit: it is refused for another reason."""
        self.calls[account, action].withdraw(arrival)

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
            meter.forget_admitted()  # or the next call would block the address again

    def reset(self) -> None:
        """Count from zero, also within the current second. Blocked addresses stay blocked."""
        self.calls.clear()
        self.addresses.clear()
