"""What people read of calls that are stopped or slowed down: in the log, the audit and /readyz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.model.health import HealthCheck, HealthStatus
from app.model.text import Text, _
from app.model.times import iso_time
from app.store.quota import CloudStatus, QuotaUsage

_CURES: Final = {
    "group": _(
        "wait, calls go on by themselves; if it lasts, check this site's network, DNS, egress and certificates, "
        "and whether the cloud has blocked the egress IP address"
    ),
    "instance": _("check this instance's network, DNS, egress and certificates: the other instances reach the cloud"),
}

_THROTTLED_CURE: Final = _(
    "wait, the pace grows again by itself; if it lasts, set the quotas (APPLY_TOKEN_QPS and the others) to the limits "
    "of the account, and find out what else calls with it"
)

_DUE: Final = _("next attempt at the next application or revocation")

READY: Final = HealthCheck(HealthStatus.READY, _("calls are not held back"))


@dataclass(frozen=True, slots=True)
class BreakerTexts:
    """The texts of one instance: ``instance`` is its host and port, ``egress_group`` the setting."""

    instance: str
    egress_group: str

    def opened(self, status: CloudStatus) -> str:
        """Say for the audit whose calls were stopped, and why."""
        if status.scope == "instance":
            return (
                f"instance {self.instance} alone cannot reach the cloud ({status.reason}): its calls are stopped, "
                "except for single attempts; check its network, DNS, egress and certificates"
            )
        return (
            f"the cloud does not answer ({status.reason}): calls of egress group {self.egress_group} are stopped, "
            "except for single attempts"
        )

    def closed(self, status: CloudStatus, open_s: float) -> str:
        """Say for the audit whose calls go on, and for how many seconds they were stopped."""
        whose = f"instance {self.instance}" if status.scope == "instance" else f"egress group {self.egress_group}"
        return f"the cloud answers again: calls of {whose} go on after {open_s:.1f} s ({status.reason})"


def cure_of(status: CloudStatus) -> Text:
    """Return what to do while calls are stopped."""
    return _CURES[status.scope]


def health_while_open(status: CloudStatus, closed_for_s: float) -> HealthCheck:
    """Return the health while calls are stopped; the next attempt is due in ``closed_for_s`` seconds.

    An attempt that is due is made with the next call, which may be long in coming.
    """
    seconds = round(closed_for_s)
    attempt = _("next attempt in %(seconds)s s", seconds=seconds) if seconds else _DUE
    values = {"reason": status.reason, "since": iso_time(status.opened_at_ms), "attempt": attempt}
    detail = {
        "group": _("the cloud does not answer (%(reason)s): calls are stopped since %(since)s, %(attempt)s", **values),
        "instance": _(
            "this instance alone cannot reach the cloud (%(reason)s): "
            "its calls are stopped since %(since)s, %(attempt)s",
            **values,
        ),
    }[status.scope]
    return HealthCheck(HealthStatus.DEGRADED, detail, cure_of(status))


def health_of_paces(usages: Sequence[QuotaUsage]) -> HealthCheck:
    """Return the health while calls are not stopped: whether those of some API, or all, are slowed down."""
    slowed = [usage for usage in usages if usage.pace < usage.full_pace]
    if not slowed:
        return READY
    slowest = min(slowed, key=lambda usage: usage.pace / usage.full_pace)
    share = round(100 * slowest.pace / slowest.full_pace)
    if any(not usage.action for usage in slowed):
        detail = _("the cloud answers again: calls go on at %(share)s%% of the pace, and grow", share=share)
        return HealthCheck(HealthStatus.DEGRADED, detail, _("wait a few seconds"))
    detail = _(
        "the cloud throttles %(actions)s: calls go on at %(share)s%% of the pace",
        actions=", ".join(usage.action for usage in slowed),
        share=share,
    )
    return HealthCheck(HealthStatus.DEGRADED, detail, _THROTTLED_CURE)
