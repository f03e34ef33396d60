"""The bodies of the sandbox's own endpoints: what a test or a rehearsal may order."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from app.sandbox.faults import Kind

_MAX_DELAY_S: Final = 300
_MAX_BLOCK_S: Final = 24 * 3600
_MAX_OFFSET_S: Final = 10 * 365 * 24 * 3600


class FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/faults``."""

    action: str
    """One of the catalog, or ``*`` for all."""
    fault: Kind
    code: str = ""
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_DELAY_S)] = 0.5
    times: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET
    """Calls it befalls; ``null`` is until cleared. Left out: one, or with a ``rate`` until cleared."""
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """The share of calls it befalls, drawn from ``seed``."""
    seed: int = 0

    def how_often(self) -> int | None:
        """Return ``times``, or what it is where it was left out."""
        if isinstance(self.times, msgspec.UnsetType):
            return 1 if self.rate == 1 else None
        return self.times


class ReleaseOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/release``."""

    action: str


Qps = Annotated[int, msgspec.Meta(ge=0)]


class LimitsOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/limits``: a preset first, then what else it says; the rest stays as it is."""

    preset: Literal["v2", "v3", "off"] | None = None
    qps: dict[str, Qps | None] = {}
    egress_qps: Qps | msgspec.UnsetType | None = msgspec.UNSET
    block_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_BLOCK_S)] | None = None


class BlockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/blocks``; without ``for_s`` for as long as the limits say."""

    address: str
    for_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_BLOCK_S)] | None = None


class BrokerOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/broker``."""

    restart: Literal[True]
    down_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_DELAY_S)] = 0.0
    """Connections are dropped for so long."""
    forget_sessions: bool = False
    """Whether also persistent sessions are lost, with their subscriptions and waiting messages."""


class ClockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/clock``."""

    offset_s: Annotated[float, msgspec.Meta(ge=-_MAX_OFFSET_S, le=_MAX_OFFSET_S)]
