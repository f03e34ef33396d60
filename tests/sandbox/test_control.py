"""The sandbox's own endpoints: what they count and do, and which callers they refuse."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest

from app.rpc.catalog import ACTIONS
from app.sandbox.faults import FaultInjector, FaultKind
from tests.sandbox.caller import Caller, in_ms
from tests.sandbox.device import Device, eventually
from tests.sandbox.raw import Raw


async def test_calls(cloud: Caller) -> None:
    """Calls are counted per action and result; unknown actions share one row; a reset starts anew."""
    await cloud.token("R", "a/#")
    await cloud.call("ApplyToken", Actions="X", Resources="a", ExpireTime="1")
    await cloud.call("QueryToken", AccessKeyId="nobody", Token="t")
    await cloud.call("Nonsense1")
    await cloud.call("Nonsense2")
    assert await cloud.control("GET", "calls") == {
        "ApplyToken": {"OK": 1, "InvalidParameter.Actions": 1},
        "QueryToken": {"InvalidAccessKeyId.NotFound": 1},
        "Unknown": {"InvalidAction.NotFound": 2},
    }
    await cloud.control("DELETE", "calls")
    assert await cloud.control("GET", "calls") == {}


async def test_tokens(cloud: Caller) -> None:
    """The tokens held are listed with their facts, and by their hash alone."""
    token = await cloud.token("R,W", "a/#,b", life_s=100)
    await cloud.revoke(token)
    (held,) = await cloud.control("GET", "tokens")
    assert abs(held.pop("expires_at_ms") - in_ms(100)) < 10_000
    assert held == {
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "type": "RW",
        "resources": ["a/#", "b"],
        "revoked": True,
    }


async def test_clock(cloud: Caller) -> None:
    """The clock moves for everything, also for the time stamps of callers."""
    shown = await cloud.control("POST", "clock", {"offset_s": 3600})
    assert shown["offset_s"] == 3600
    assert abs(shown["now_ms"] - in_ms(3600)) < 10_000
    assert (await cloud.call("QueryToken", Token="t")).code == "InvalidTimeStamp.Expired"
    await cloud.move_clock(0)
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"


async def held(cloud: Caller, action: str) -> int:
    """Return how many calls of ``action`` are held."""
    return int((await cloud.control("GET", "faults"))["held"][action])


async def until_held(cloud: Caller, action: str, count: int) -> None:
    """Wait until so many calls of ``action`` are held."""

    async def there() -> bool:
        return await held(cloud, action) == count

    await eventually(there, f"{count} held calls of {action}")


async def test_hold(cloud: Caller) -> None:
    """A held call takes effect only after its release; as many are held as were asked for."""
    await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": "hold", "times": 2})
    calls = [asyncio.create_task(cloud.token("R", "a/#")) for _ in range(2)]
    await until_held(cloud, "ApplyToken", 2)
    await cloud.token("R", "a/#")  # the third goes through
    assert len(await cloud.control("GET", "tokens")) == 1
    assert await cloud.control("POST", "release", {"action": "ApplyToken"}) == {"released": 2}
    await asyncio.gather(*calls)
    assert len(await cloud.control("GET", "tokens")) == 3
    assert await cloud.control("GET", "calls") == {"ApplyToken": {"OK": 3}}


async def test_a_held_revoke(cloud: Caller) -> None:
    """RevokeToken can be held as well: until its release the token stays valid."""
    token = await cloud.token("R", "a/#")
    await cloud.control("POST", "faults", {"action": "RevokeToken", "fault": "hold"})
    call = asyncio.create_task(cloud.revoke(token))
    await until_held(cloud, "RevokeToken", 1)
    assert await cloud.status(token)
    await cloud.control("POST", "release", {"action": "RevokeToken"})
    await call
    assert not await cloud.status(token)


async def test_a_held_call_whose_caller_has_gone(cloud: Caller) -> None:
    """A held call takes effect after release even if its caller has gone: its answer is lost, like at the cloud."""
    await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": "hold"})
    call = asyncio.create_task(cloud.token("R", "a/#"))
    await until_held(cloud, "ApplyToken", 1)
    call.cancel()
    await asyncio.wait([call])
    assert await held(cloud, "ApplyToken") == 1
    await cloud.control("POST", "release", {"action": "ApplyToken"})
    await until_held(cloud, "ApplyToken", 0)

    async def counted() -> bool:
        return bool(await cloud.control("GET", "calls") == {"ApplyToken": {"OK": 1}})

    await eventually(counted)
    assert len(await cloud.control("GET", "tokens")) == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [("SystemOverflow", 500), ("ApplyTokenOverflow", 400), ("Throttling.User", 400), ("ServiceUnavailable", 503)],
)
async def test_error(cloud: Caller, code: str, status: int) -> None:
    """A call can be failed with any code of the catalog; it then has no effect, and the next goes through."""
    await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": "error", "code": code})
    reply = await cloud.call("ApplyToken", Actions="R", Resources="a/#", ExpireTime=str(in_ms(100)))
    assert (reply.status, reply.code) == (status, code)
    assert await cloud.control("GET", "tokens") == []
    await cloud.token("R", "a/#")
    assert await cloud.control("GET", "calls") == {"ApplyToken": {code: 1, "OK": 1}}


@pytest.mark.parametrize(("fault", "effect", "counted"), [("drop", 0, "Dropped"), ("half", 1, "OK")])
async def test_lost_answers(cloud: Caller, fault: str, effect: int, counted: str) -> None:
    """A dropped call has no effect; one whose answer is sent in half has."""
    await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": fault})
    with pytest.raises(aiohttp.ClientError):
        await cloud.token("R", "a/#")
    assert len(await cloud.control("GET", "tokens")) == effect
    assert await cloud.control("GET", "calls") == {"ApplyToken": {counted: 1}}


async def test_hang(cloud: Caller) -> None:
    """A hanging call is not answered, until the faults are cleared and it is dropped."""
    await cloud.control("POST", "faults", {"action": "QueryToken", "fault": "hang"})
    call = asyncio.create_task(cloud.call("QueryToken", Token="t"))
    await until_held(cloud, "QueryToken", 1)
    assert not call.done()
    await cloud.control("DELETE", "faults")
    with pytest.raises(aiohttp.ClientError):
        await call


@pytest.mark.parametrize(
    ("fault", "status", "content_type"), [("html", 502, "text/html"), ("garbage", 200, "json"), ("noise", 200, "json")]
)
async def test_mangled_answers(cloud: Caller, fault: str, status: int, content_type: str) -> None:
    """A proxy's HTML page, JSON of the wrong shape and bytes that are no text can be had, without an effect."""
    await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": fault, "times": None})
    for _ in range(2):
        signed = cloud.signed("ApplyToken", Actions="R", Resources="a/#", ExpireTime=str(in_ms(100)))
        async with cloud.http.post(cloud.url, data=signed) as response:
            assert response.status == status
            assert content_type in response.headers["Content-Type"]
            body = await response.read()
    if fault == "noise":
        with pytest.raises(UnicodeDecodeError):
            body.decode()
    assert await cloud.control("GET", "tokens") == []
    assert (await cloud.control("GET", "faults"))["faults"][0]["times"] is None
    await cloud.control("DELETE", "faults")
    await cloud.token("R", "a/#")


async def test_delay(cloud: Caller) -> None:
    """A delayed call takes its time and is then answered."""
    await cloud.control("POST", "faults", {"action": "QueryToken", "fault": "delay", "delay_s": 0.2})
    began = asyncio.get_running_loop().time()
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"
    assert asyncio.get_running_loop().time() - began >= 0.2


async def test_a_rate(cloud: Caller) -> None:
    """A fault with a rate befalls that share of the calls until it is cleared, the same ones for an equal seed."""

    async def sequence() -> str:
        await cloud.control("POST", "faults", {"action": "*", "fault": "throttle", "rate": 0.3, "seed": 7})
        codes = [(await cloud.call("QueryToken", Token="t")).code for _ in range(60)]
        await cloud.control("DELETE", "faults")
        assert set(codes) == {"OK", "QueryTokenOverflow"}
        return "".join("x" if code != "OK" else "." for code in codes)

    first = await sequence()
    assert 8 <= first.count("x") <= 30
    assert await sequence() == first


async def test_every_action_at_once(cloud: Caller) -> None:
    """A fault for all actions befalls each; one that is held is counted under its own action."""
    await cloud.control("POST", "faults", {"action": "*", "fault": "error", "code": "ServiceUnavailable", "times": 2})
    assert (await cloud.call("QueryToken", Token="t")).code == "ServiceUnavailable"
    assert (await cloud.call("RevokeToken", Token="t")).code == "ServiceUnavailable"
    await cloud.control("POST", "faults", {"action": "*", "fault": "hold"})
    call = asyncio.create_task(cloud.call("QueryToken", Token="t"))
    await until_held(cloud, "QueryToken", 1)
    await cloud.control("POST", "release", {"action": "QueryToken"})
    assert (await call).code == "OK"


async def test_throttling(cloud: Caller) -> None:
    """Throttling answers with the overflow code of each action, or the gateway's for an action without one."""
    await cloud.control("POST", "faults", {"action": "*", "fault": "throttle", "times": None})
    for action in ACTIONS.values():
        assert (await cloud.call(action.name)).code == action.overflow


FAULTS_OF_ALL_ACTIONS = ["throttle", "hang", "delay", "hold", "garbage", "noise", "html", "drop", "half"]


@pytest.mark.parametrize("fault", FAULTS_OF_ALL_ACTIONS)
async def test_a_fault_for_a_while(cloud: Caller, fault: str) -> None:
    """Each fault can be ordered for all actions for some seconds, happens to all calls meanwhile, and then ends."""
    options = {"action": "*", "fault": fault, "delay_s": 300}
    await cloud.control("POST", "faults", {**options, "for_s": 300})
    calls = [asyncio.create_task(failing(cloud, action)) for action in ("QueryToken", "RevokeToken", "QueryToken")]

    async def has_happened() -> bool:
        injected = (await cloud.control("GET", "faults"))["injected"]
        return bool(injected == {"QueryToken": {fault: 2}, "RevokeToken": {fault: 1}})

    await eventually(has_happened)
    assert (await cloud.control("GET", "faults"))["faults"][0]["times"] is None
    await cloud.control("DELETE", "faults")
    for call in calls:
        call.cancel()
    await cloud.control("POST", "faults", {**options, "for_s": 0.02})

    async def has_ended() -> bool:
        return bool((await cloud.control("GET", "faults"))["faults"] == [])

    await eventually(has_ended)
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"


async def failing(cloud: Caller, action: str) -> None:
    """Make a call that may fail in any way."""
    with suppress(aiohttp.ClientError, UnicodeDecodeError):
        await cloud.call(action, Token="t")


@pytest.mark.parametrize(("fault", "is_answered"), [("hold", True), ("hang", False)])
async def test_the_end_of_a_fault_releases_its_calls(cloud: Caller, fault: str, *, is_answered: bool) -> None:
    """Calls that one fault holds are released when it ends: held ones go on, hanging ones are dropped."""
    await cloud.control("POST", "faults", {"action": "QueryToken", "fault": fault, "for_s": 0.2})
    await cloud.control("POST", "faults", {"action": "RevokeToken", "fault": "hold", "for_s": 300})
    other = asyncio.create_task(cloud.call("RevokeToken", Token="t"))
    if is_answered:
        assert (await cloud.call("QueryToken", Token="t")).code == "OK"
    else:
        with pytest.raises(aiohttp.ClientError):
            await cloud.call("QueryToken", Token="t")
    await until_held(cloud, "RevokeToken", 1)
    await cloud.control("DELETE", "faults")
    assert (await other).code == "OK"


async def test_jitter_delays_the_arrival(cloud: Caller) -> None:
    """A request counts when it arrives after its delay: two that are sent at once are then a second apart."""
    await cloud.control("POST", "limits", {"qps": {"QueryToken": 1}, "egress_qps": 1})
    # With this seed the first two delays are 12244.00 s and 13323.00 s.
    await cloud.control("POST", "faults", {"action": "*", "fault": "jitter", "delay_s": 1.2, "seed": 1412})
    replies = await asyncio.gather(*(cloud.call("QueryToken", Token="t") for _ in range(2)))
    assert [reply.code for reply in replies] == ["OK", "OK"]
    counted = await cloud.control("GET", "limits")
    assert [meter["peak"] for meter in (*counted["calls"], *counted["addresses"])] == [1, 1]
    faults = await cloud.control("GET", "faults")
    assert (faults["faults"][0]["times"], faults["injected"]) == (None, {})


async def test_jitter_of_a_share_of_the_requests(cloud: Caller) -> None:
    """With a rate only some requests are delayed, with ``times`` only so many."""
    order = {"action": "*", "fault": "jitter", "delay_s": 0.001}
    await cloud.control("POST", "faults", {**order, "rate": 0.5, "times": 2})
    while (await cloud.control("GET", "faults"))["faults"]:
        assert (await cloud.call("QueryToken", Token="t")).code == "OK"


def test_jitter_can_be_repeated() -> None:
    """Delays are spread over the whole range, and the same for an equal seed."""

    def delays(seed: int) -> list[float]:
        faults = FaultInjector()
        faults.add_fault("*", FaultKind.JITTER, delay_s=0.03, times=None, seed=seed)
        return [faults.next_delay_s() for _ in range(300)]

    first = delays(1)
    assert delays(1) == first != delays(2)
    assert 0 <= min(first) < 0.002
    assert 0.028 < max(first) <= 0.03


@pytest.mark.parametrize("forget", [False, True])
async def test_a_broker_restart(cloud: Caller, connect: Callable[..., Awaitable[Device]], *, forget: bool) -> None:
    """A restart cuts every connection; sessions that were asked for are kept, or lost on demand."""
    password = f"R|{await cloud.token('R', 'a/#')}"
    device = await connect(password, clean=False)
    assert await cloud.control("POST", "broker", {"restart": True, "forget_sessions": forget}) == {"dropped": 1}
    await device.cut()
    again = await connect(password, clean=False)
    assert again.session_present is not forget


async def test_a_broker_that_is_down(
    cloud: Caller, raw: Callable[[], Awaitable[Raw]], connect: Callable[..., Awaitable[Device]]
) -> None:
    """While the broker is down it drops new connections; then it serves again."""
    await cloud.control("POST", "broker", {"restart": True, "down_s": 300})
    assert await (await raw()).rest() == b""
    await cloud.control("POST", "broker", {"restart": True})
    token = await cloud.token("R", "a/#")
    assert (await connect(f"R|{token}")).code == 0


async def test_faults_happen_to_verified_calls_only(cloud: Caller) -> None:
    """A request that fails verification uses up no fault."""
    await cloud.control("POST", "faults", {"action": "QueryToken", "fault": "error", "code": "SystemOverflow"})
    assert (await cloud.call("QueryToken", AccessKeyId="nobody", Token="t")).code == "InvalidAccessKeyId.NotFound"
    assert (await cloud.call("QueryToken", Token="t")).code == "SystemOverflow"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"action": "Nonsense", "fault": "hold"}),
        ("faults", {"action": "ApplyToken", "fault": "explode"}),
        ("faults", {"action": "ApplyToken", "fault": "error"}),
        ("faults", {"action": "ApplyToken", "fault": "error", "code": "NoSuchCode"}),
        ("faults", {"action": "ApplyToken", "fault": "hold", "times": 0}),
        ("faults", {"action": "ApplyToken", "fault": "delay", "delay_s": -1}),
        ("faults", {"action": "ApplyToken", "fault": "hold", "extra": 1}),
        ("faults", ["hold"]),
        ("faults", {"action": "ApplyToken", "fault": "jitter"}),
        ("faults", {"action": "ApplyToken", "fault": "drop", "for_s": 0}),
        ("faults", {"action": "ApplyToken", "fault": "drop", "for_s": 1e9}),
        ("faults", {"action": "ApplyToken", "fault": "drop", "rate": 0}),
        ("faults", {"action": "ApplyToken", "fault": "drop", "rate": 1.5}),
        ("release", {"action": "Nonsense"}),
        ("release", {"action": "*"}),
        ("broker", {}),
        ("broker", {"restart": False}),
        ("broker", {"restart": True, "down_s": 1e9}),
        ("clock", {"offset_s": "late"}),
        ("clock", {"offset_s": 1e300}),
        ("clock", {}),
    ],
)
async def test_bad_orders(cloud: Caller, path: str, body: object) -> None:
    """A malformed order is refused with the reason, and changes nothing."""
    async with cloud.http.post(f"{cloud.url}/_sandbox/{path}", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]
    assert (await cloud.control("GET", "faults"))["faults"] == []
    assert (await cloud.control("GET", "clock"))["offset_s"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "sandbox.example"},
        {"Host": "127.0.0.1.example:8090"},
        {"Host": "localhost.example"},
        {"Host": "10.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
    ],
)
@pytest.mark.parametrize(
    "path", ["calls", "faults", "release", "limits", "blocks", "gateway", "broker", "clock", "tokens"]
)
async def test_other_origins(cloud: Caller, path: str, headers: dict[str, str]) -> None:
    """No page in a browser on this machine reaches the controls, neither from its origin nor by rebinding a name."""
    method = "POST" if path in ("release", "blocks", "broker") else "GET"
    async with cloud.http.request(method, f"{cloud.url}/_sandbox/{path}", headers=headers, data=b"{}") as response:
        assert response.status == 403


async def test_own_origin(cloud: Caller) -> None:
    """A page that the sandbox's own address served may use the controls, under each loopback name."""
    port = cloud.url.rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        await cloud.control("GET", "calls", Host=host, Origin=f"http://{host}")


async def test_clear(cloud: Caller) -> None:
    """Clearing the faults lets held calls go on and empties the list."""
    await cloud.control("POST", "faults", {"action": "QueryToken", "fault": "hold", "times": None})
    call = asyncio.create_task(cloud.call("QueryToken", Token="t"))
    await until_held(cloud, "QueryToken", 1)
    await cloud.control("DELETE", "faults")
    assert (await call).code == "OK"
    await eventually(call.done)
    assert (await cloud.control("GET", "faults"))["faults"] == []
