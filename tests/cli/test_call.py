"""``call`` against a sandbox of its own process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from app.cli.call import parse_parameters
from app.model.secrets import AccessKeySecret
from app.rpc import signature
from app.rpc.catalog import ACTIONS
from tests.cli.conftest import Cli
from tests.cli.test_sandbox import KEYS, sandbox
from tests.sandbox.test_samples import DEVICE, GIVEN, SAMPLES, of_json, of_xml


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running sandbox."""
    with sandbox(tmp_path_factory.mktemp("call") / "state") as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().split()[2].rstrip(",")


@pytest.fixture
def environment(cloud: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings for that sandbox, in the environment."""
    for name, value in {**settings, **KEYS, "CLOUD_ENDPOINT": cloud}.items():
        monkeypatch.setenv(name, value)
    return settings


def applying() -> list[str]:
    """Return the parameters of an ApplyToken that is granted."""
    return ["--Actions", "R,W", "--ExpireTime", str(int(time.time() + 600) * 1000), "--Resources", "plant/all"]


def test_an_answer_is_printed_in_both_formats(cli: Cli, environment: dict[str, str]) -> None:
    """JSON and XML have the guide's fields in its order, readable; instance and region are those of the settings."""
    answer = cli("call", "ApplyToken", *applying())
    assert (answer.code, answer.err) == (0, "")
    assert list(json.loads(answer.out)) == ["RequestId", "Token"]
    assert answer.out.startswith('{\n  "RequestId": ')
    answer = cli("call", "QueryToken", "--Token", json.loads(answer.out)["Token"], "--format", "xml")
    [first, request_id, status, last] = answer.out.splitlines()
    assert (first, status, last) == (
        "<QueryTokenResponse>",
        "  <TokenStatus>true</TokenStatus>",
        "</QueryTokenResponse>",
    )
    assert request_id.startswith("  <RequestId>")


@pytest.mark.parametrize("format_", ["json", "xml"])
def test_each_action_is_answered_with_the_fields_of_the_guides_sample(
    cli: Cli, environment: dict[str, str], format_: str
) -> None:
    """All actions, in both formats: names, nesting and order are the guide's."""
    cli("call", "CreateGroupId", "--GroupId", "GID_plant")
    for action in ACTIONS:
        if action == "RefreshDeviceCredential":  # after UnRegister, in the guide's order
            cli("call", "RegisterDeviceCredential", "--ClientId", "GID_plant@@@d1")
        given = [
            f"--{name}={value}" for name, value in GIVEN.get(action, DEVICE if _takes_device(action) else {}).items()
        ]
        answer = cli("call", action, *given, "--format", format_)
        assert (answer.code, answer.err) == (0, "")
        printed = of_json(json.loads(answer.out)) if format_ == "json" else of_xml(ET.fromstring(answer.out))  # noqa: S314
        assert printed == SAMPLES[action]


def _takes_device(action: str) -> bool:
    return any(parameter.name == "ClientId" for parameter in ACTIONS[action].parameters)


def test_raw_is_the_very_answer(cli: Cli, environment: dict[str, str]) -> None:
    """``--raw`` adds nothing to the cloud's bytes, of a refusal neither, and does not hide that it is one."""
    answer = cli("call", "QueryToken", "--Token", "unknown", "--raw")
    assert answer.code == 0
    assert json.loads(answer.out)["TokenStatus"] is False
    answer = cli("call", "QueryToken", "--Token", "x", "--InstanceId", "mqtt-other", "--raw", "--format", "xml")
    assert (answer.code, answer.err) == (1, "")
    assert answer.out.endswith("</Error>")


def test_a_refusal_names_its_probable_cause(cli: Cli, environment: dict[str, str]) -> None:
    """Exit code 1, with Code, Message, RequestId and the probable cause."""
    answer = cli("call", "QueryToken", "--Token", "x", "--InstanceId", "mqtt-other")
    assert (answer.code, answer.out) == (1, "")
    first, *rows = answer.err.splitlines()
    assert first.startswith("error: InstancePermissionCheckFailed: An error occurred while validating")
    printed = {row[2:16].strip(): row[16:].strip() for row in rows}
    assert list(printed) == ["HTTP status", "RequestId", "probable cause"]
    assert "CLOUD_INSTANCE_ID" in printed["probable cause"]


def test_machines_get_one_line_of_json(cli: Cli, environment: dict[str, str]) -> None:
    """``--json`` is one object, for answer and refusal alike."""
    answer = cli("call", "QueryToken", "--Token", "x", "--json")
    printed = json.loads(answer.out)
    assert (printed["status"], printed["answer"]["TokenStatus"]) == (200, False)
    answer = cli("call", "QueryToken", "--Token", "x", "--InstanceId", "mqtt-other", "--json", "--show-signing")
    printed = json.loads(answer.out)
    assert (answer.code, answer.err) == (1, "")
    assert (printed["status"], printed["error"]["kind"]) == (400, "permission")
    assert set(printed["error"]) == {"code", "message", "request_id", "kind", "probable_cause"}
    assert set(printed["signing"]) == {"string_to_sign", "signature"}


def test_the_signing_is_shown_and_compared(
    cli: Cli, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """String to sign and signature belong together, the secret is not shown, and a wrong secret is found out."""
    answer = cli("call", "QueryToken", "--Token", "a+/= b", "--show-signing")
    string_to_sign, signed = (line.split()[-1] for line in answer.out.splitlines()[:2])
    assert string_to_sign.startswith("POST&%2F&AccessKeyId%3Dak%26Action%3DQueryToken")
    assert signed == signature.rpc_signature(AccessKeySecret("sk"), string_to_sign)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "another-secret")
    answer = cli("call", "QueryToken", "--Token", "a+/= b", "--show-signing")
    assert answer.code == 1
    assert "the cloud signed the same string, so the access key secret is wrong" in answer.err
    assert "another-secret" not in answer.out + answer.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["Querytoken"], "there is no action Querytoken: did you mean QueryToken?"),
        (["Xyzzy"], "there is no action Xyzzy: `call` without an action lists them"),
        (["QueryToken"], "Token is missing"),
        (["QueryToken", "--token", "x"], "did you mean Token?"),
        (["QueryToken", "--Token"], "--Token has no value: write --Token VALUE"),
        (["QueryToken", "--Token", "x", "stray"], "stray: write --PARAMETER VALUE"),
        (["QueryToken", "--Token", "x", "--Token", "y"], "--Token is given twice"),
        (["QueryToken", "--Token", "x", "--Version", "1"], "QueryToken has no parameter Version"),
        (["QueryToken", "--Token", "x", "--json", "--raw"], "--json cannot be combined"),
        (["CreateGroupId", "--GroupId", "plant"], "GroupId is not valid: expected GID_ or GID-"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_sent(cli: Cli, arguments: list[str], reason: str) -> None:
    """A wrong name or value is one line with a hint, and exit code 2; no settings are needed for that."""
    answer = cli("call", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1


def test_anything_is_sent_anyway(cli: Cli, environment: dict[str, str]) -> None:
    """``--anyway`` sends what the catalog would refuse, public parameters included, and shows what the cloud says."""
    for extra, code in (
        (["--Version", "2019-01-01"], "InvalidVersion"),
        (["--Timestamp", "2020-01-01T00:00:00Z"], "InvalidTimeStamp.Expired"),
        (["--Token", ""], "MissingToken"),
        (["--InstanceId", ""], "MissingInstanceId"),
    ):
        token = [] if "--Token" in extra else ["--Token", "x"]
        answer = cli("call", "QueryToken", *token, *extra, "--anyway")
        assert (answer.code, answer.err.split()[1]) == (1, f"{code}:")


def test_a_cloud_out_of_reach_is_one_line(
    cli: Cli, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer the line names the kind of failure and the probable cause."""
    monkeypatch.setenv("CLOUD_ENDPOINT", "http://127.0.0.1:1")
    answer = cli("call", "QueryToken", "--Token", "x")
    assert answer.code == 1
    assert answer.err.startswith("error: CannotConnect: ")
    assert "CLOUD_ENDPOINT or CLOUD_REGION is wrong" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_actions_and_parameters_are_listed(cli: Cli) -> None:
    """``call`` lists every action, ``call ACTION --help`` its parameters with their rules."""
    listed = [line.split()[0] for line in cli("call").out.splitlines()[: len(ACTIONS)]]
    assert listed == list(ACTIONS)
    for action in ACTIONS.values():
        printed = cli("call", action.name, "--help").out
        assert all(f"--{parameter.name}" in printed for parameter in action.parameters)
    assert "--show-signing" in cli("call", "--help").out


def test_a_list_is_numbered_or_repeated() -> None:
    """``--ClientIdList`` may be repeated, numbered, or both; each stays a parameter of its own."""
    action = ACTIONS["BatchQuerySessionByClientIds"]
    given = ["--ClientIdList", "a", "--ClientIdList.3=c", "--ClientIdList", "b", "--ClientIdList", "d"]
    assert parse_parameters(action, given, anyway=False) == {
        "ClientIdList.1": "a",
        "ClientIdList.3": "c",
        "ClientIdList.2": "b",
        "ClientIdList.4": "d",
    }
