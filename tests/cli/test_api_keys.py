"""``keys``."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli


def test_a_key_is_shown_once(cli: Cli, state: str) -> None:
    """``add`` prints the key; no other verb ever shows its secret."""
    options = ["--right", "introspect", "--right", "revoke", "--state", state]
    made = json.loads(cli("keys", "add", "billing", *options, "--json").out)
    assert made.keys() == {"name", "rights", "key"}
    assert made["rights"] == ["introspect", "revoke"]
    said = cli("keys", "add", "shop.floor-2", "--right", "admin", "--state", state).out
    assert said.startswith("shop.floor-2 may admin; the key, shown only once:\nmts_")
    listed = json.loads(cli("keys", "list", "--state", state, "--json").out)
    assert [(key["name"], key["rights"]) for key in listed] == [
        ("billing", ["introspect", "revoke"]),
        ("shop.floor-2", ["admin"]),
    ]
    for answer in (cli("keys", "list", "--state", state), cli("keys", "list", "--state", state, "--json")):
        assert "billing" in answer.out
        assert made["key"][-43:] not in answer.out + answer.err


def test_a_key_is_removed_by_its_name(cli: Cli, state: str) -> None:
    """A removed key is gone, and its name is free again."""
    for _ in range(2):
        assert cli("keys", "add", "billing", "--right", "introspect", "--state", state).code == 0
        assert cli("keys", "remove", "billing", "--state", state).out == "billing is removed\n"
    assert json.loads(cli("keys", "list", "--state", state, "--json").out) == []
    assert "no key of that name" in cli("keys", "remove", "billing", "--state", state).err


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "a\x1b[31m", "-x", "x" * 65, "ключ", "a/b", "x" * 100_000])
def test_a_name_that_could_deceive_is_refused(cli: Cli, state: str, name: str) -> None:
    """A name is shown in tables, logs and the audit: no control character, nothing endless."""
    answer = cli("keys", "add", "--right", "admin", "--state", state, "--", name)
    assert answer.code == 1
    assert (answer.out, len(answer.err.splitlines())) == ("", 1)
    assert "1 to 64" in answer.err
    assert json.loads(cli("keys", "list", "--state", state, "--json").out) == []


def test_refusals(cli: Cli, state: str) -> None:
    """A name is taken once; a right must be one, and there must be one."""
    assert cli("keys", "add", "billing", "--right", "admin", "--state", state).code == 0
    assert "already" in cli("keys", "add", "billing", "--right", "revoke", "--state", state).err
    assert cli("keys", "add", "x", "--right", "root", "--state", state).code == 2
    assert cli("keys", "add", "x", "--state", state).code == 2
