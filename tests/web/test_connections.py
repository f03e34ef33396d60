"""The table of connections, without sockets and with a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.web.connections import RESERVE_PER_SOURCE, Admission, ConnectionLimits, ConnectionTable, source_of

DEVICE = "192.0.2.1"
PROXIES = (ip_network("10.0.0.0/24"), ip_network("2001:db8:ffff::1"))


@dataclass(eq=False)
class Peer:
    """A connection that waits for its client since ``waiting_since``, or for the server."""

    waiting_since: float | None = None
    is_closed: bool = False

    def close_for_another(self) -> None:
        """Be closed."""
        assert not self.is_closed
        assert self.waiting_since is not None
        self.is_closed = True

    def close_if_overdue(self, now: float) -> None:
        """Do nothing."""


@dataclass
class Table:
    """A table with a clock that each new connection moves on."""

    limits: ConnectionLimits
    now: float = 100.0
    table: ConnectionTable = field(init=False)

    def __post_init__(self) -> None:
        self.table = ConnectionTable(self.limits, lambda: self.now)

    def add(self, address: str = DEVICE, *, waits: bool = True) -> tuple[Peer, Admission]:
        """Add a connection that waits for its client, or for the server."""
        self.now += 1
        peer = Peer(self.now if waits else None)
        return peer, self.table.add(peer, address)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("10.0.1.1", "10.0.1.1"),
    ],
)
def test_an_address_is_limited_with_all_that_its_host_has(address: str, source: str) -> None:
    """A host has one IPv4 address, but 2**64 IPv6 addresses: it gets no new allowance with each of them."""
    assert source_of(address, PROXIES) == source


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "10.0.0.7", "2001:db8:ffff::1", "", "not one"]
)
def test_loopback_and_proxies_are_not_limited(address: str) -> None:
    """Behind a load balancer all devices have its address; a Unix socket has none."""
    assert source_of(address, PROXIES) is None


def test_the_one_that_has_waited_longest_gives_way() -> None:
    """Not the oldest connection, and never one whose request is being answered."""
    table = Table(ConnectionLimits(total=3))
    (busy, _), (first, _), (second, _) = table.add(waits=False), table.add(), table.add()
    first.waiting_since = table.now + 1  # it has sent a request, and was answered
    _, admission = table.add()
    assert admission is Admission.SERVED
    assert [peer.is_closed for peer in (busy, first, second)] == [False, False, True]


def test_one_that_has_sent_a_request_since_the_search_stays() -> None:
    """Those that were found waiting are remembered, and looked at again before one is closed."""
    table = Table(ConnectionLimits(total=3))
    peers = [table.add()[0] for _ in range(3)]
    table.add()
    peers[1].waiting_since = None
    table.add()
    assert [peer.is_closed for peer in peers] == [True, False, True]


def test_a_source_has_its_own_limit_and_reserve() -> None:
    """Its connections beyond it are refused by an answer, then closed; others have nothing to do with it."""
    table = Table(ConnectionLimits(per_source=2))
    answers = [table.add(waits=False)[1] for _ in range(2 + RESERVE_PER_SOURCE + 1)]
    expected = [Admission.SERVED] * 2 + [Admission.SOURCE_FULL] * RESERVE_PER_SOURCE + [Admission.CLOSED]
    assert answers == expected
    assert table.add("192.0.2.2", waits=False)[1] is Admission.SERVED
    assert table.add("127.0.0.1", waits=False)[1] is Admission.SERVED


def test_a_source_with_one_connection_keeps_its_count() -> None:
    """The only connection of a source gives way to the next one, which is counted all the same."""
    table = Table(ConnectionLimits(per_source=1))
    peers = [table.add() for _ in range(4)]
    assert [peer.is_closed for peer, _ in peers] == [True, True, True, False]
    assert {admission for _, admission in peers} == {Admission.SERVED}


def test_sources_are_forgotten() -> None:
    """An address that has no connection any more takes no memory: an attacker may have a million."""
    table = Table(ConnectionLimits())
    for number in range(1000):
        peer, _ = table.add(f"198.51.{number // 250}.{number % 250}")
        table.table.discard(peer)
    assert len(table.table) == 0
    assert table.table._sources == {}


def test_a_search_among_many_is_not_repeated_at_once() -> None:
    """While thousands of requests are under way, each further connection does not look at all of them."""
    table = Table(ConnectionLimits(total=1000, per_source=10_000))
    searched = 0

    class Counting(Peer):
        @property
        def waiting_since(self) -> float | None:
            nonlocal searched
            searched += 1
            return None

        @waiting_since.setter
        def waiting_since(self, _: float | None) -> None:
            pass

    for _ in range(1000):
        table.table.add(Counting(), DEVICE)
    for _ in range(100):
        table.table.add(Counting(), DEVICE)
    assert 1000 <= searched < 3000


def test_limits_are_logged_at_most_every_ten_seconds() -> None:
    """One entry says what happened since the last one: a flood does not fill the log."""
    table = Table(ConnectionLimits(per_source=1))
    with capture_logs() as logs:
        for _ in range(30):
            table.add(waits=False)
            table.table._log.write(table.now, open_connections=len(table.table))
    assert [each["event"] for each in logs] == ["connections_limited"] * 3
    assert sum(each.get("in_reserve", 0) + each.get("dropped", 0) for each in logs) == 21
    assert {(each["setting"], each["most"], each["last_address"]) for each in logs} == {
        ("MAX_CONNECTIONS_PER_ADDRESS", 1, DEVICE)
    }


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "serve", "rest", "close"]), st.integers(0, 30), st.integers(1, 3)),
        max_size=80,
    ),
    total=st.integers(1, 6),
    reserve=st.integers(1, 3),
    per_source=st.integers(1, 4),
)
def test_no_limit_is_ever_exceeded(
    steps: list[tuple[str, int, int]], total: int, reserve: int, per_source: int
) -> None:
    """Whatever connects, sends, waits and closes: no more than the limits, and each one's place is given back."""
    table = Table(ConnectionLimits(total=total, reserve=reserve, per_source=per_source))
    peers: list[tuple[Peer, str]] = []
    for step, which, number in steps:
        if step == "add":
            peer, admission = table.add(f"192.0.2.{number}", waits=bool(which % 2))
            if admission is Admission.CLOSED:
                table.table.discard(peer)
            else:
                peers.append((peer, f"192.0.2.{number}"))
        elif peers:
            peer, _ = peers[which % len(peers)]
            if step == "close":
                peer.is_closed = True
            else:
                table.now += 1
                peer.waiting_since = table.now if step == "rest" else None
        for closed in [each for each in peers if each[0].is_closed]:
            table.table.discard(closed[0])
            peers.remove(closed)
        assert len(table.table) == len(peers) <= total + reserve
        for address in {address for _, address in peers}:
            assert len([1 for _, each in peers if each == address]) <= per_source + RESERVE_PER_SOURCE
    for peer, _ in peers:
        table.table.discard(peer)
    assert len(table.table) == 0
    assert table.add()[1] is Admission.SERVED
