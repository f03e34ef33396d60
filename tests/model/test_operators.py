from __future__ import annotations

import pytest

from app.model.operators import Operator, OperatorRole, generate_password, is_operator_name, normalize_password
from app.model.secrets import Password


def test_each_role_may_do_what_the_ones_before_may() -> None:
    """Admin covers operator covers viewer, and no role covers a higher one."""
    ranked = [OperatorRole.VIEWER, OperatorRole.OPERATOR, OperatorRole.ADMIN]
    for has, role in enumerate(ranked):
        assert [role.covers(needed) for needed in ranked] == [needs <= has for needs in range(3)]


@pytest.mark.parametrize("name", ["a", "ann", "Ann.B-c_d9", "0", "x" * 64])
def test_what_is_a_name(name: str) -> None:
    """What a person is called, in the characters of an account."""
    assert is_operator_name(name)
    assert Operator(name, OperatorRole.VIEWER, 0).actor_name == f"operator:{name}"


@pytest.mark.parametrize(
    "name",
    ["", "-a", ".a", "a b", "a\n", "a\x00", "<b>a</b>", "a@b", "ана", "a\u202eb", "a\ud800", "x" * 65, "x" * 10_000],
)
def test_what_is_no_name(name: str) -> None:
    """Markup, control characters, look-alikes and endless names could deceive the reader of a log."""
    assert not is_operator_name(name)


def test_one_password_typed_in_two_ways_is_one() -> None:
    """Composed or not, full width or not: the hash is of the same characters."""
    for one, other in (("cafe\u0301 au lait", "caf\u00e9 au lait"), ("\uff50assword99", "password99")):
        first, second = normalize_password(Password(one)), normalize_password(Password(other))
        assert first is not None
        assert first == second


@pytest.mark.parametrize("text", ["x" * 10, "x" * 256, "密" * 10, "🔑" * 256, " " * 10, "a\u0301" * 256])
def test_what_can_be_a_password(text: str) -> None:
    """Ten to 256 characters of any kind: no rule about which."""
    assert normalize_password(Password(text)) is not None


@pytest.mark.parametrize(
    "text", ["", "x" * 9, "x" * 257, "x" * 1_000_000, "a\u0301" * 9, "\ufdfa" * 200, "\ud800" * 20, "x" * 20 + "\udcff"]
)
def test_what_can_be_no_password(text: str) -> None:
    """Too short or too long, as typed or as normalized, and what is not valid Unicode."""
    assert normalize_password(Password(text)) is None


def test_a_generated_password_is_valid() -> None:
    """No two are equal, and each is long enough."""
    generated = [generate_password() for _ in range(100)]
    assert len({password.reveal() for password in generated}) == 100
    assert all(normalize_password(password) == password for password in generated)
    assert generated[0].reveal() not in repr(generated)
