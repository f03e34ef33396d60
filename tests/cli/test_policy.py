"""``policy``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.embedded import example
from tests.cli.conftest import Cli


def test_the_example_policy_is_right(cli: Cli) -> None:
    """The policy that `dev` gives a newcomer is right and has nothing to point out."""
    path = Path(example.__file__).with_name("policy.toml")
    assert cli("policy", "check", str(path)).out == f"{path} is right: sensor, dashboard\n"


def test_a_wrong_file_is_one_line(cli: Cli, tmp_path: Path) -> None:
    """A wrong policy is told with file, line and key."""
    file = tmp_path / "policy.toml"
    file.write_text('[roles.sensor]\npublish = ["a"]\npublsh = ["b"]\n')
    answer = cli("policy", "check", str(file))
    assert (answer.code, answer.out) == (2, "")
    assert f"{file}" in answer.err
    assert "3" in answer.err
    assert "publsh" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_overlaps_are_pointed_out(cli: Cli, tmp_path: Path) -> None:
    """Two roles that can match one client ID are pointed out, in words and in JSON; the file is right all the same."""
    file = tmp_path / "policy.toml"
    file.write_text(
        '[roles.a]\nmatch = ["GID_plant@@@*"]\npublish = ["a"]\n\n[roles.b]\nmatch = ["*d1"]\npublish = ["b"]\n'
    )
    answer = cli("policy", "check", str(file))
    assert answer.code == 0
    assert answer.out.startswith("warning: roles.a.match GID_plant@@@*")
    assert len(json.loads(cli("policy", "check", str(file), "--json").out)["warnings"]) == 1


def test_explain(cli: Cli, state: str) -> None:
    """A registered device is explained by its record: the role, the rule, and each permission with its template."""
    cli("devices", "add", "GID_plant@@@d1", "--role", "press", "--attr", "hall=h7", "--state", state)
    answer = cli("policy", "explain", "GID_plant@@@d1", "--state", state)
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "GID_plant@@@d1",
        "role press: the device's record names press",
        "  pub:plant/h7/press/#  (from publish plant/{attr.hall}/press/#)",
    ]
    explained = json.loads(cli("policy", "explain", "GID_plant@@@d1", "--state", state, "--json").out)
    assert (explained["role"], explained["grant"], explained["registered"]) == ("press", True, True)


def test_explain_why_there_is_no_grant(cli: Cli, state: str) -> None:
    """A device that lacks an attribute is told which; one that no rule fits is told so."""
    cli("devices", "add", "GID_plant@@@d1", "--role", "press", "--state", state)
    answer = cli("policy", "explain", "GID_plant@@@d1", "--state", state)
    assert "nothing: " in answer.out
    assert "hall" in answer.out
    assert answer.out.splitlines()[-1].startswith("no grant")
    stranger = cli("policy", "explain", "GID_other@@@d1", "--state", state).out
    assert "not registered" in stranger
    assert "role none" in stranger


def test_explain_needs_a_client_id(cli: Cli, state: str) -> None:
    """What is no client ID is refused in one line."""
    answer = cli("policy", "explain", "d1", "--state", state)
    assert answer.code == 2
    assert "GID_group@@@device" in answer.err


@pytest.mark.parametrize("verb", ["check", "explain"])
def test_without_a_set_up(cli: Cli, verb: str) -> None:
    """Without environment, state or .local, one line says what to set."""
    answer = cli("policy", verb, *(["GID_plant@@@d1"] if verb == "explain" else []))
    assert answer.code == 2
    assert "not set" in answer.err
    assert len(answer.err.splitlines()) == 1
