from __future__ import annotations

import pathlib
import re

import pytest

from app.errors import Misconfigured
from app.model.lifetimes import MAX_LIFETIME_S, MIN_LIFETIME_S
from app.model.policy_file import PolicyError, load_policy, parse_policy

EXAMPLE = b"""\
[roles.sensor]
match = ["GID_plant@@@*"]             # optional
publish = ["plant/{device_id}/up/#"]
subscribe = ["plant/{device_id}/down/#", "plant/all"]
default_lifetime_s = 3600
max_lifetime_s = 86400
"""
LONG = ",".join(f"\n'a/{number}'" for number in range(101))


def test_the_documented_example_is_a_policy() -> None:
    """The example of the product's description reads as it says."""
    (role,) = parse_policy(EXAMPLE, "policy.toml").roles.values()
    assert (role.name, role.match) == ("sensor", ("GID_plant@@@*",))
    assert [template.text for template in role.publish] == ["plant/{device_id}/up/#"]
    assert [template.text for template in role.subscribe] == ["plant/{device_id}/down/#", "plant/all"]
    assert (role.default_lifetime_s, role.max_lifetime_s) == (3600, 86_400)


def test_roles_keep_the_order_of_the_file() -> None:
    """The first match wins, so order is part of the policy."""
    text = b"".join(b"[roles.%s]\npublish = ['a']\n" % name for name in (b"z", b"a", b"m"))
    assert list(parse_policy(text, "p").roles) == ["z", "a", "m"]


def test_match_and_lifetimes_may_be_left_out() -> None:
    """A role without a match is given only by name; a default lifetime is never longer than the maximum."""
    (role,) = parse_policy(b"[roles.r]\npublish = ['a']\nmax_lifetime_s = 65\n", "p").roles.values()
    assert (role.match, role.default_lifetime_s, role.max_lifetime_s) == ((), 65, 65)


@pytest.mark.parametrize(
    ("text", "line", "key", "why"),
    [
        ("", 1, "roles", "add a [roles.NAME] table"),
        ("roles = 1", 1, "roles", "add a [roles.NAME] table"),
        ("[roles]\n", 1, "roles", "add a [roles.NAME] table"),
        ("\n[role.x]\npublish = ['a']", 2, "role", "unknown key"),
        ("[roles.x]\npublish = ['a']\n[other]\n", 3, "other", "unknown key"),
        ("[roles.x]\npublish = ['a']\nsubcribe = []", 3, "roles.x.subcribe", "a role has match, publish, subscribe"),
        ("roles.x.publish = ['a']\nroles.x.lifetime = 1", 2, "roles.x.lifetime", "unknown key"),
        ("roles = { x = { publish = ['a'],\n'y z' = 1 } }".replace("\n", " "), 1, "roles.x.'y z'", "unknown key"),
        ("[roles]\nx = 1", 2, "roles.x", "write [roles.x]"),
        ("[[roles.x]]\npublish = ['a']", 1, "roles.x", "not a table"),
        ("[roles.'a b']\npublish = ['a']", 1, "roles.'a b'", "not a valid role name"),
        ("[roles.'']\npublish = ['a']", 1, "roles.''", "not a valid role name"),
        ("[roles.x]\n", 1, "roles.x", "add publish or subscribe"),
        ("[roles.x]\npublish = []\nsubscribe = []", 1, "roles.x", "add publish or subscribe"),
        ("[roles.x]\npublish = 'a'", 2, "roles.x.publish", "write publish = [...]"),
        ("[roles.x]\npublish = [\n  'a',\n  1,\n]", 4, "roles.x.publish[1]", "put it in quotes"),
        ("[roles.x]\npublish = [\n  'a',\n\n  'a',\n]", 5, "roles.x.publish[1]", "twice"),
        ("[roles.x]\npublish = ['a', 'a/{nope}']", 2, "roles.x.publish[1]", "use {client_id}"),
        ("[roles.x]\nsubscribe = ['a/{device_id']", 2, "roles.x.subscribe[0]", "unmatched brace"),
        ("[roles.x]\nsubscribe = ['a/#/b']", 2, "roles.x.subscribe[0]", "before its last level"),
        ("[roles.x]\nsubscribe = ['$SYS/#']", 2, "roles.x.subscribe[0]", "begins with $"),
        ("[roles.x]\npublish = ['a']\nmatch = ['GID_a?@@@*']", 3, "roles.x.match[0]", "is not a valid glob"),
        ("[roles.x]\npublish = ['a']\nmatch = ['plant*']", 3, "roles.x.match[0]", "matches no client ID"),
        ("[roles.x]\npublish = ['a']\nmatch = ['GID_plant']", 3, "roles.x.match[0]", "GID_group@@@device"),
        ("[roles.x]\npublish = ['a']\nmatch = ['GID_ab@@@d']", 3, "roles.x.match[0]", "invalid group ID"),
        ("[roles.x]\npublish = ['a']\nmax_lifetime_s = 64", 3, "roles.x.max_lifetime_s", "65 to 2592000"),
        ("[roles.x]\npublish = ['a']\nmax_lifetime_s = 2592001", 3, "roles.x.max_lifetime_s", "65 to 2592000"),
        ("[roles.x]\npublish = ['a']\ndefault_lifetime_s = 1.5", 3, "roles.x.default_lifetime_s", "whole number"),
        ("[roles.x]\npublish = ['a']\ndefault_lifetime_s = true", 3, "roles.x.default_lifetime_s", "whole number"),
        ("[roles.x]\npublish = ['a']\ndefault_lifetime_s = '1h'", 3, "roles.x.default_lifetime_s", "whole number"),
        (
            "[roles.x]\npublish = ['a']\nmax_lifetime_s = 100\ndefault_lifetime_s = 101",
            4,
            "roles.x.default_lifetime_s",
            "more than max_lifetime_s (100)",
        ),
        (f"[roles.x]\npublish = [{LONG}]", 103, "roles.x.publish[100]", "100"),
    ],
)
def test_a_wrong_policy_is_refused_with_file_line_key_and_cure(text: str, line: int, key: str, why: str) -> None:
    """The message is one line that says where and what, and nothing of the file is taken."""
    with pytest.raises(PolicyError) as refusal:
        parse_policy(text.encode(), "etc/policy.toml")
    message = str(refusal.value)
    assert message.startswith(f"etc/policy.toml:{line}: {key}: ")
    assert why in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"[roles.x]\n\npublish == 1\n", "p.toml: not valid TOML: Invalid value (at line 3, column 10)"),
        (b"[roles.x]\npublish = ['a']\npublish = ['a']\n", "p.toml: not valid TOML: .* (at line 3, column 16)"),
        (b"[roles.x]\npublish = [", "p.toml: not valid TOML: Invalid value (at end of document)"),
        (b"a = 1\n\n\xff = 2", "p.toml:3: not UTF-8"),
        (b"x = " + b"[" * 5000, "p.toml: not valid TOML: "),
        (b"\nx = 1" + b"1" * 5000, "p.toml: not valid TOML: "),
    ],
)
def test_what_is_not_valid_toml_is_refused_with_its_line(data: bytes, complaint: str) -> None:
    """Also bytes that are not UTF-8, and a nesting or a number without end, which have no line."""
    with pytest.raises(PolicyError) as refusal:
        parse_policy(data, "p.toml")
    assert re.match(re.escape(complaint).replace(r"\.\*", ".*"), str(refusal.value))


@pytest.mark.parametrize("lifetime_s", [MIN_LIFETIME_S, MAX_LIFETIME_S])
def test_the_shortest_and_the_longest_lifetime_are_allowed(lifetime_s: int) -> None:
    """65 s and 30 days are within the limits."""
    text = f"[roles.x]\npublish = ['a']\nmax_lifetime_s = {lifetime_s}\ndefault_lifetime_s = {lifetime_s}"
    assert parse_policy(text.encode(), "p").roles["x"].default_lifetime_s == lifetime_s


def test_a_policy_is_read_from_its_file_and_a_missing_one_is_a_wrong_set_up(tmp_path: pathlib.Path) -> None:
    """A file that cannot be read is refused in one line like one that is wrong."""
    path = tmp_path / "policy.toml"
    with pytest.raises(Misconfigured, match=r"policy\.toml: cannot be read: No such file"):
        load_policy(path)
    path.write_bytes(EXAMPLE.replace(b"\n", b"\r\n"))
    assert list(load_policy(path).roles) == ["sensor"]
