from __future__ import annotations

import pytest

from app.model.grants import TokenType
from app.model.mqtt_password import (
    MalformedPassword,
    begins_like_password,
    build_password,
    cloud_tokens_in,
    parse_password,
    without_passwords,
)
from app.model.secrets import CloudToken

R, W, RW = CloudToken("LzMT+XLFI5s/YWJ=="), CloudToken("W"), CloudToken("x")


def test_a_password_that_is_built_is_read_back() -> None:
    """Whatever a cloud token looks like, a type's name included, it comes back under its own type."""
    pairs = [(TokenType.R, R), (TokenType.W, W), (TokenType.RW, RW)]
    password = build_password(pairs)
    assert password == "R|LzMT+XLFI5s/YWJ==|W|W|RW|x"
    assert parse_password(password) == dict(pairs)
    assert cloud_tokens_in("R|a|W|b") == [CloudToken("a"), CloudToken("b")]


@pytest.mark.parametrize(
    "text", ["", "R", "R|", "|R|a", "R|a|", "R|a|W", "R|a|W|", "X|a", "r|a", "R|a|R|b", "a", "R||a"]
)
def test_what_is_not_a_password_is_refused(text: str) -> None:
    """An unknown or repeated type, an empty token and a missing part are not read as anything."""
    with pytest.raises(MalformedPassword):
        parse_password(text)


def test_a_token_alone_and_a_part_of_a_password_are_found() -> None:
    """People paste one token, with or without its type, and the middle of a password."""
    assert cloud_tokens_in("abc") == cloud_tokens_in("W|abc") == cloud_tokens_in("|RW|abc") == [CloudToken("abc")]
    assert cloud_tokens_in("") == []


def test_the_beginning_of_a_password_is_known() -> None:
    """No topic filter, role or client ID begins so."""
    assert all(begins_like_password(text) for text in ("R|a", "RW|", "W|x|R|y"))
    assert not any(begins_like_password(text) for text in ("a/R|", "GID_a@@@b", "|R|a", "RR|a", ""))


def test_a_quoted_password_is_not_logged() -> None:
    """Of a password in a sentence only its first type is left, to the next space or quote."""
    assert without_passwords("topic 'R|secret|W|other' and RW|third end") == "topic 'R|...' and RW|... end"
    assert without_passwords("a|b R W") == "a|b R W"
