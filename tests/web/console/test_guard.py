from __future__ import annotations

import ipaddress

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from app.errors import Forbidden
from app.model.operators import Operator, OperatorRole
from app.web.console.guard import check_role, client_address

BALANCERS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.9.9.9, 10.0.0.2"], "10.9.9.9"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, <script>"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:4711"], "10.0.0.1"),
        ("10.0.0.1", ["x" * 5000], "10.0.0.1"),
    ],
)
def test_the_address_is_the_last_that_no_trusted_proxy_has(remote: str, forwarded: list[str], address: str) -> None:
    """Nobody can claim another address to guess passwords from: only a trusted proxy is believed."""
    headers = CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    request = make_mocked_request("POST", "/admin/sign-in", headers=headers).clone(remote=remote)
    assert client_address(request, BALANCERS) == address


def test_without_a_trusted_proxy_nobody_is_believed() -> None:
    """By default the header is nothing but a stranger's word."""
    request = make_mocked_request("POST", "/", headers={"X-Forwarded-For": "203.0.113.9"}).clone(remote="127.0.0.1")
    assert client_address(request, ()) == "127.0.0.1"


@pytest.mark.parametrize("role", OperatorRole)
@pytest.mark.parametrize("needed", OperatorRole)
def test_a_role_may_do_what_it_and_those_before_it_may(role: OperatorRole, needed: OperatorRole) -> None:
    """A viewer looks, an operator acts, an admin does everything."""
    may = list(OperatorRole).index(role) >= list(OperatorRole).index(needed)
    operator = Operator("ada", role, 0)
    if may:
        check_role(operator, needed)
    else:
        with pytest.raises(Forbidden, match=f"takes the role {needed}, and ada is {role}"):
            check_role(operator, needed)
