"""Quotas: what is counted, what is refused, and how an address is blocked (guide chapter 8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from app.sandbox.call_meter import Arrival, QuotaWindow
from app.sandbox.limits import QUOTA_PRESETS, QuotaLimits, Throttle
from app.sandbox.server import SandboxConfig
from tests.sandbox.caller import Caller

ME = "127.0.0.1"
NOW = Arrival(1000.0)


def at(now_s: float) -> Arrival:
    """Return an arrival at so many seconds."""
    return Arrival(now_s)


def test_an_account_may_call_an_action_so_often_in_a_second() -> None:
    """Calls beyond the limit are refused until a second has passed; other actions and accounts are not affected."""
    throttle = Throttle(QuotaLimits({"RevokeToken": 5}))
    assert [throttle.admits("a", "RevokeToken", NOW) for _ in range(7)] == [True] * 5 + [False] * 2
    assert throttle.admits("a", "QueryToken", NOW)
    assert throttle.admits("b", "RevokeToken", NOW)
    assert not throttle.admits("a", "RevokeToken", at(1000.999))
    assert throttle.admits("a", "RevokeToken", at(1001.0))
    assert throttle.calls["a", "RevokeToken"].refused == 3


@pytest.mark.parametrize(("window", "peak", "refused"), [(QuotaWindow.SLIDING, 10, 5), (QuotaWindow.WHOLE, 5, 0)])
def test_the_window_in_force(window: QuotaWindow, peak: int, refused: int) -> None:
    """Calls at the end of one second of the clock and the start of the next count together only if it slides."""
    throttle = Throttle(QuotaLimits({"RevokeToken": 5}, window=window))
    for now_s in (1000.6, 1001.2):
        for _ in range(5):
            throttle.admits("a", "RevokeToken", at(now_s))
    meter = throttle.calls["a", "RevokeToken"]
    assert (meter.peak, meter.refused) == (peak, refused)


def test_another_window_counts_anew() -> None:
    """Counts of one kind of second are not shown as those of another; other limits keep them."""
    throttle = Throttle(QuotaLimits({"RevokeToken": 5}))
    throttle.admits("a", "RevokeToken", NOW)
    throttle.change_limits(QuotaLimits({"RevokeToken": 6}))
    assert throttle.calls["a", "RevokeToken"].peak == 1
    throttle.change_limits(QuotaLimits(window=QuotaWindow.WHOLE))
    assert throttle.calls == {}


def test_an_address_beyond_its_limit_is_blocked() -> None:
    """The first call above the limit blocks the address for ``block_s``, and no other address."""
    now = [1000.0]
    throttle = Throttle(QuotaLimits(egress_qps=3, block_s=60), lambda: now[0])
    assert [throttle.admits_address(ME, NOW) for _ in range(4)] == [True] * 3 + [False]
    now[0] = 1059.9
    assert not throttle.admits_address(ME, at(now[0]))
    assert throttle.admits_address("127.0.0.2", at(now[0]))
    assert throttle.blocked_for_s() == {ME: pytest.approx(0.1)}
    now[0] = 1060.0
    assert throttle.admits_address(ME, at(now[0]))
    assert throttle.blocked_for_s() == {}
    assert throttle.addresses[ME].refused == 2


def test_what_a_blocked_address_sends_does_not_count() -> None:
    """However often a blocked address tries again, it has its whole limit when the block ends."""
    throttle = Throttle(QuotaLimits(egress_qps=3, block_s=2))
    for tick in range(200):
        throttle.admits_address(ME, at(1000 + tick / 100))
    assert [throttle.admits_address(ME, at(1002.05)) for _ in range(4)] == [True] * 3 + [False]


def test_an_unblocked_address_is_not_blocked_by_the_same_calls() -> None:
    """After an unblock the calls made in that second count no more."""
    throttle = Throttle(QuotaLimits(egress_qps=3), lambda: NOW.at_s)
    for _ in range(9):
        throttle.admits_address(ME, NOW)
    throttle.unblock()
    assert [throttle.admits_address(ME, NOW) for _ in range(4)] == [True] * 3 + [False]


def test_addresses_cannot_fill_the_memory() -> None:
    """Of more addresses than are remembered the oldest are forgotten."""
    throttle = Throttle(QUOTA_PRESETS["v3"])
    for number in range(1500):
        assert throttle.admits_address(str(number), NOW)
    assert len(throttle.addresses) == 1000


def test_the_generations() -> None:
    """Today's instances give ApplyToken 100 calls a second, the previous ones 500 (FACTS 0.1)."""
    assert [QUOTA_PRESETS[name].qps["ApplyToken"] for name in ("v3", "v2")] == [100, 500]
    assert [QUOTA_PRESETS[name].egress_qps for name in ("v3", "v2", "off")] == [300, 300, None]
    assert QUOTA_PRESETS["v3"].qps["RevokeToken"] == QUOTA_PRESETS["v2"].qps["RevokeToken"] == 5
    assert {limits.window for limits in QUOTA_PRESETS.values()} == {QuotaWindow.SLIDING}


@pytest.fixture
def config(config: SandboxConfig) -> SandboxConfig:
    """A sandbox with low limits for two actions."""
    return replace(config, limits=QuotaLimits({"RevokeToken": 1, "ListGroupId": 0}))


async def test_overflow(cloud: Caller) -> None:
    """A call too many has no effect and is answered with its API's overflow code, or that of the gateway."""
    token = await cloud.token("R", "a/#")
    replies = [await cloud.call("RevokeToken", Token=token) for _ in range(3)]
    assert "RevokeTokenOverflow" in [reply.code for reply in replies]
    assert (await cloud.call("ListGroupId")).code == "Throttling.Api"
    shown = await cloud.control("GET", "limits")
    assert {"account": "1000000000000001", "action": "ListGroupId", "peak": 1, "refused": 1} in shown["calls"]
    assert shown["addresses"][0]["peak"] >= 4


async def test_what_was_injected_is_not_what_was_earned(cloud: Caller) -> None:
    """Ordered throttling is counted apart from that of the limit, and uses up no quota."""
    await cloud.control("POST", "faults", {"action": "*", "fault": "throttle", "times": 2})
    codes = [(await cloud.call("RevokeToken", Token="t")).code for _ in range(4)]
    assert codes == [*["RevokeTokenOverflow"] * 2, "OK", "RevokeTokenOverflow"]
    [counted] = (await cloud.control("GET", "limits"))["calls"]
    assert (counted["peak"], counted["refused"]) == (4, 1)
    assert (await cloud.control("GET", "faults"))["injected"] == {"RevokeToken": {"throttle": 2}}
    await cloud.control("DELETE", "calls")
    assert (await cloud.control("GET", "faults"))["injected"] == {}


async def test_only_verified_calls_use_up_a_quota(cloud: Caller) -> None:
    """A caller that cannot sign uses up no quota, or a stranger could lock the account out of its API."""
    for _ in range(3):
        assert (await cloud.forger().call("RevokeToken", Token="t")).code == "SignatureDoesNotMatch"
    assert (await cloud.call("RevokeToken", Token="t")).code == "OK"


async def test_a_blocked_address(cloud: Caller) -> None:
    """A blocked address gets no answer at all, by order or for too many calls; the control endpoints still answer."""
    await cloud.control("POST", "limits", {"egress_qps": 2})
    with pytest.raises(aiohttp.ClientError):  # noqa: PT012 - which of the calls is too many depends on the second
        for _ in range(6):
            await cloud.call("QueryToken", Token="t")
    assert [each["address"] for each in (await cloud.control("GET", "limits"))["blocked"]] == [ME]
    await cloud.control("DELETE", "blocks")
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"
    await cloud.control("POST", "blocks", {"address": ME, "for_s": 5})
    with pytest.raises(aiohttp.ClientError):
        await cloud.call("QueryToken", Token="t")
    assert (await cloud.control("GET", "calls"))["Unknown"]["Blocked"] >= 2


async def test_limits_are_set_while_it_runs(cloud: Caller) -> None:
    """A preset comes first, single limits over it; what is absent stays; null is no limit."""
    assert (await cloud.control("POST", "limits", {"window": "whole"}))["window"] == "whole"
    await cloud.control("POST", "limits", {"preset": "v2", "qps": {"QueryToken": None, "SendMessage": 7}})
    shown = await cloud.control("POST", "limits", {"egress_qps": None, "block_s": 5})
    assert (shown["egress_qps"], shown["block_s"], shown["window"]) == (None, 5, "whole")
    assert {name: shown["qps"][name] for name in ("ApplyToken", "QueryToken", "RevokeToken", "SendMessage")} == {
        "ApplyToken": 500,
        "QueryToken": None,
        "RevokeToken": 5,
        "SendMessage": 7,
    }
    assert set((await cloud.control("POST", "limits", {"preset": "off"}))["qps"].values()) == {None}


async def test_a_reset_measures_anew(cloud: Caller) -> None:
    """Resetting the counts of calls also resets the peaks."""
    await cloud.call("QueryToken", Token="t")
    await cloud.control("DELETE", "calls")
    shown = await cloud.control("GET", "limits")
    assert (shown["calls"], shown["addresses"]) == ([], [])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("limits", {"preset": "v1"}),
        ("limits", {"qps": {"Nonsense": 1}}),
        ("limits", {"qps": {"ApplyToken": -1}}),
        ("limits", {"egress_qps": "many"}),
        ("limits", {"block_s": -1}),
        ("limits", {"window": "minute"}),
        ("limits", {"extra": 1}),
        ("blocks", {"address": "everyone"}),
        ("blocks", {}),
    ],
)
async def test_bad_orders(cloud: Caller, path: str, body: object) -> None:
    """A malformed order is refused with the reason, and changes nothing."""
    before = await limits_of(cloud)
    async with cloud.http.post(f"{cloud.url}/_sandbox/{path}", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]
    assert await limits_of(cloud) == before


async def limits_of(cloud: Caller) -> dict[str, Any]:
    """Return the limits, without what was measured."""
    shown = await cloud.control("GET", "limits")
    return {name: shown[name] for name in ("qps", "egress_qps", "block_s", "window", "blocked")}
