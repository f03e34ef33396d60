"""``policy``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.embedded import example
from app.rpc.catalog import ACTIONS
from tests.cli.conftest import Cli


def test_the_example_policy_is_right(cli: Cli) -> None:
    """The policy that `dev` gives a newcomer is right and has nothing to point out."""
    path = Path(example.__file__).with_name("policy.toml")
    assert cli("policy", "check", str(path)).out == f"{path} is valid: sensor, dashboard\n"


def test_a_wrong_file_is_one_line(cli: Cli, tmp_path: Path) -> None:
    """A wrong policy is reported with file, line and key."""
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
        "role press: the device's record names role press",
        "  pub:plant/h7/press/#  (from publish plant/{attr.hall}/press/#)",
    ]
    explained = json.loads(cli("policy", "explain", "GID_plant@@@d1", "--state", state, "--json").out)
    assert (explained["role"], explained["grant"], explained["registered"]) == ("press", True, True)
    assert explained["templates"] == [
        {"verb": "pub", "template": "plant/{attr.hall}/press/#", "result": "plant/h7/press/#", "reason": ""}
    ]


def test_explain_why_there_is_no_grant(cli: Cli, state: str) -> None:
    """The output names a missing attribute, and says when no role matches."""
    cli("devices", "add", "GID_plant@@@d1", "--role", "press", "--state", state)
    answer = cli("policy", "explain", "GID_plant@@@d1", "--state", state)
    assert "nothing: " in answer.out
    assert "hall" in answer.out
    assert answer.out.splitlines()[-1].startswith("no grant")
    stranger = cli("policy", "explain", "GID_other@@@d1", "--state", state).out
    assert "not registered" in stranger
    assert "role none" in stranger


def test_explain_needs_a_client_id(cli: Cli, state: str) -> None:
    """An invalid client ID is refused in one line."""
    answer = cli("policy", "explain", "d1", "--state", state)
    assert answer.code == 2
    assert "GID_group@@@device" in answer.err


@pytest.mark.parametrize("verb", ["check", "explain"])
def test_without_settings(cli: Cli, verb: str) -> None:
    """Without environment, state or .local, one line says what to set."""
    answer = cli("policy", verb, *(["GID_plant@@@d1"] if verb == "explain" else []))
    assert answer.code == 2
    assert "not set" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_the_least_ram_policy(cli: Cli, state: str) -> None:
    """What the cloud must allow follows from the policy file: its parent topics, the instance, the server's calls."""
    answer = cli("policy", "ram", "--state", state)
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == {
        "Version": "1",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["mq:MqttInstanceAccess"],
                "Resource": ["acs:mq:*:*:instance/post-cn-test", "acs:mq:*:*"],
            },
            {"Effect": "Allow", "Action": ["mq:ApplyToken"], "Resource": ["acs:mq:*:*:topic/post-cn-test/plant"]},
            {"Effect": "Allow", "Action": ["mq:QueryToken", "mq:RevokeToken"], "Resource": ["acs:mq:*:*"]},
        ],
    }


def test_a_parent_topic_that_varies(cli: Cli, tmp_path: Path) -> None:
    """A variable or a wildcard in the first level becomes a star, with a word of warning beside the JSON."""
    file = tmp_path / "policy.toml"
    file.write_text('[roles.a]\npublish = ["x/a", "hall-{attr.hall}-a/b", "hall-1-a"]\n')
    answer = cli("policy", "ram", str(file), "--instance-id", "post-cn-1")
    assert answer.err == (
        "warning: roles.a: hall-{attr.hall}-a/b needs every parent topic like hall-*-a: write out the first level\n"
    )
    topics = json.loads(answer.out)["Statement"][1]["Resource"]
    assert topics == ["acs:mq:*:*:topic/post-cn-1/hall-*-a", "acs:mq:*:*:topic/post-cn-1/x"]
    file.write_text('[roles.a]\npublish = ["+/a", "x"]\n')
    answer = cli("policy", "ram", str(file), "--instance-id", "post-cn-1")
    assert json.loads(answer.out)["Statement"][1]["Resource"] == ["acs:mq:*:*:topic/post-cn-1/*"]
    assert "every parent topic like *" in answer.err


def test_the_settings_of_the_least_ram_policy(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and instance may come from the environment without other settings; a missing one is named in one line."""
    file = tmp_path / "policy.toml"
    file.write_text('[roles.a]\npublish = ["x/a"]\n')
    monkeypatch.setenv("POLICY_FILE", str(file))
    answer = cli("policy", "ram")
    assert (answer.code, answer.err) == (2, "error: CLOUD_INSTANCE_ID is not set: set it, or name a --state\n")
    monkeypatch.setenv("CLOUD_INSTANCE_ID", "post-cn-1")
    assert "topic/post-cn-1/x" in cli("policy", "ram").out
    assert "mq:CloseConnection" not in cli("policy", "ram").out
    monkeypatch.setenv("CLOSE_CONNECTION_ON_REVOKE", "true")
    assert "mq:CloseConnection" in cli("policy", "ram").out


def test_the_ram_policy_of_the_console_allows_every_action(cli: Cli, tmp_path: Path) -> None:
    """What operators do by hand is allowed too, and each action only on the instance."""
    file = tmp_path / "policy.toml"
    file.write_text('[roles.r]\nmatch = ["GID_plant@@@*"]\npublish = ["x/1"]\n')
    answer = cli("policy", "ram", str(file), "--instance-id", "post-cn-1", "--console").out
    for action in ACTIONS:
        assert f'"mq:{action}"' in answer
    assert '"*"' not in answer
