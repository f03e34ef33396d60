"""Quotas: what is counted, what is refused, and how an address is blocked (guide chapter 8)."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from app.sandbox.limits import QUOTA_PRESETS, QuotaLimits, Throttle
from app.sandbox.server import SandboxConfig
from tests.sandbox.caller import Caller

ME = "127.0.0.1"


class ManualClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now_s


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


def test_an_account_may_call_an_action_so_often_in_a_second(clock: ManualClock) -> None:
    """Calls beyond the limit are refused until the next second; other actions and accounts are not affected."""
    throttle = Throttle(QuotaLimits({"RevokeToken": 5}), clock)
    assert [throttle.admits("a", "RevokeToken") for _ in range(7)] == [True] * 5 + [False] * 2
    assert throttle.admits("a", "QueryToken")
    assert throttle.admits("b", "RevokeToken")
    clock.now_s += 0.999
    assert not throttle.admits("a", "RevokeToken")
    clock.now_s += 0.001
    assert throttle.admits("a", "RevokeToken")
    assert throttle.calls["a", "RevokeToken"].refused == 3


def test_the_peak_is_that_of_any_second(clock: ManualClock) -> None:
    """Calls at the end of one second and the start of the next are admitted, and the peak counts them together."""
    throttle = Throttle(QuotaLimits({"RevokeToken": 5}), clock)
    for now_s in (1000.6, 1001.2):
        clock.now_s = now_s
        assert all(throttle.admits("a", "RevokeToken") for _ in range(5))
    clock.now_s = 1003.0
    assert throttle.admits("a", "RevokeToken")
    assert throttle.calls["a", "RevokeToken"].peak == 10


def test_an_address_beyond_its_limit_is_blocked(clock: ManualClock) -> None:
    """The first call above the limit blocks the address for ``block_s``, and no other address."""
    throttle = Throttle(QuotaLimits(egress_qps=3, block_s=60), clock)
    assert [throttle.admits_address(ME) for _ in range(4)] == [True] * 3 + [False]
    clock.now_s += 59.9
    assert not throttle.admits_address(ME)
    assert throttle.admits_address("127.0.0.2")
    assert throttle.blocked_for_s() == {ME: pytest.approx(0.1)}
    clock.now_s += 0.1
    assert throttle.admits_address(ME)
    assert throttle.blocked_for_s() == {}
    assert throttle.addresses[ME].refused == 2


def test_an_unblocked_address_is_not_blocked_by_the_same_calls(clock: ManualClock) -> None:
    """After an unblock the calls made in that second count no more."""
    throttle = Throttle(QuotaLimits(egress_qps=3), clock)
    for _ in range(9):
        throttle.admits_address(ME)
    throttle.unblock()
    assert [throttle.admits_address(ME) for _ in range(4)] == [True] * 3 + [False]


def test_addresses_cannot_fill_the_memory(clock: ManualClock) -> None:
    """Of more addresses than are remembered the oldest are forgotten."""
    throttle = Throttle(QUOTA_PRESETS["v3"], clock)
    for number in range(1500):
        assert throttle.admits_address(str(number))
    assert len(throttle.addresses) == 1000


def test_the_generations() -> None:
    """Today's instances give ApplyToken 100 calls a second, the previous ones 500 (FACTS 0.1)."""
    assert [QUOTA_PRESETS[name].qps["ApplyToken"] for name in ("v3", "v2")] == [100, 500]
    assert [QUOTA_PRESETS[name].egress_qps for name in ("v3", "v2", "off")] == [300, 300, None]
    assert QUOTA_PRESETS["v3"].qps["RevokeToken"] == QUOTA_PRESETS["v2"].qps["RevokeToken"] == 5


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
    await cloud.control("POST", "limits", {"preset": "v2", "qps": {"QueryToken": None, "SendMessage": 7}})
    shown = await cloud.control("POST", "limits", {"egress_qps": None, "block_s": 5})
    assert (shown["egress_qps"], shown["block_s"]) == (None, 5)
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
        ("limits", {"extra": 1}),
        ("blocks", {"address": "everyone"}),
        ("blocks", {}),
    ],
)
async def test_bad_orders(cloud: Caller, path: str, body: object) -> None:
    """A malformed order is refused with the reason, and changes nothing."""
    before = await cloud.control("GET", "limits")
    async with cloud.http.post(f"{cloud.url}/_sandbox/{path}", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]
    assert await cloud.control("GET", "limits") == before
