"""``devices``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.model.devices import Algorithm
from app.service.verification_keys import new_pair
from tests.cli.conftest import Cli

D1 = "GID_plant@@@d1"
D2 = "GID_plant@@@d2"


def test_a_secret_is_shown_once(cli: Cli, state: str) -> None:
    """``add --json`` prints client ID and secret and nothing else; no other verb ever shows the secret."""
    added = json.loads(cli("devices", "add", D1, "--state", state, "--json").out)
    assert added.keys() == {"client_id", "secret"}
    assert added["client_id"] == D1
    assert len(added["secret"]) >= 32
    for verb in (["show", D1], ["show", D1, "--json"], ["list"], ["list", "--json"], ["export"]):
        answer = cli("devices", *verb, "--state", state)
        assert answer.code == 0
        assert D1 in answer.out
        assert added["secret"] not in answer.out + answer.err


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_a_key_pair_is_made(cli: Cli, state: str, algorithm: str) -> None:
    """Without a public key a pair is made, and the private half shown once."""
    added = json.loads(cli("devices", "add", D1, "--alg", algorithm, "--state", state, "--json").out)
    assert added.keys() == {"client_id", "private_key"}
    assert added["private_key"].startswith("-----BEGIN PRIVATE KEY-----")
    exported = json.loads(cli("devices", "export", "--state", state).out)
    assert exported["public_key"].startswith("-----BEGIN PUBLIC KEY-----")


def test_a_public_key_is_taken(cli: Cli, state: str, tmp_path: Path) -> None:
    """A device that keeps its private key to itself is registered by the public one; nothing secret is printed."""
    _, public = new_pair(Algorithm.ES256)
    (tmp_path / "d1.pem").write_text(public.reveal())
    options = ["--alg", "ES256", "--public-key", str(tmp_path / "d1.pem"), "--state", state]
    assert cli("devices", "add", D1, *options).out == f"{D1} is registered\n"


def test_attributes_and_role(cli: Cli, state: str) -> None:
    """A record names its role and carries attributes for the policy's templates."""
    options = ["--role", "press", "--attr", "hall=h7", "--attr", "row=2", "--note", "at the gate", "--state", state]
    assert cli("devices", "add", D1, *options).code == 0
    shown = json.loads(cli("devices", "show", D1, "--state", state, "--json").out)
    assert shown["role"] == "press"
    assert shown["attributes"] == {"hall": "h7", "row": "2"}
    assert shown["note"] == "at the gate"


def test_the_life_of_a_device(cli: Cli, state: str) -> None:
    """A device is disabled, enabled, re-keyed and removed; each is reported in words and in JSON."""
    first = json.loads(cli("devices", "add", D1, "--state", state, "--json").out)["secret"]
    assert cli("devices", "disable", D1, "--state", state).out == f"{D1} is disabled, 0 tokens revoked\n"
    assert json.loads(cli("devices", "show", D1, "--state", state, "--json").out)["disabled"] is True
    assert cli("devices", "enable", D1, "--state", state).out == f"{D1} is enabled\n"
    assert json.loads(cli("devices", "show", D1, "--state", state, "--json").out)["disabled"] is False
    second = json.loads(cli("devices", "rotate", D1, "--state", state, "--json").out)["secret"]
    assert second != first
    assert json.loads(cli("devices", "remove", D1, "--state", state, "--json").out) == {"client_id": D1, "revoked": 0}
    assert json.loads(cli("devices", "list", "--state", state, "--json").out) == []


def test_a_rotation_says_what_becomes_of_the_old_key(cli: Cli, state: str, tmp_path: Path) -> None:
    """Refused at once, or valid until a stated time, which ``show`` prints as well; an export does not have it."""
    cli("devices", "add", D1, "--state", state)
    assert "0 tokens revoked; the old key is refused" in cli("devices", "rotate", D1, "--state", state).out
    said = cli("devices", "rotate", D1, "--grace", "24h", "--state", state).out
    until = said.split("works until ")[1].split(",")[0]
    assert "no token is revoked" in said
    assert until in cli("devices", "show", D1, "--state", state).out
    answer = json.loads(cli("devices", "rotate", D1, "--alg", "ES256", "--grace", "7d", "--state", state, "--json").out)
    assert answer.keys() == {"client_id", "private_key", "revoked", "grace_until_ms"}
    shown = json.loads(cli("devices", "show", D1, "--state", state, "--json").out)
    assert (shown["algorithm"], shown["grace_until_ms"]) == ("ES256", answer["grace_until_ms"])
    exported = cli("devices", "export", "--state", state).out
    assert "grace" not in exported
    cli("devices", "remove", D1, "--state", state)
    (tmp_path / "in.jsonl").write_text(exported)
    assert cli("devices", "import", str(tmp_path / "in.jsonl"), "--state", state).code == 0


@pytest.mark.parametrize("grace", ["-1h", "soon", "24", "1w", "31d", "", "0.5h", "\u0661h", "9" * 30 + "d", "1h\n"])
def test_a_grace_of_nonsense_is_refused(cli: Cli, state: str, grace: str) -> None:
    """An invalid or too long time is reported in one line, and the key is not changed."""
    cli("devices", "add", D1, "--state", state)
    answer = cli("devices", "rotate", D1, f"--grace={grace}", "--state", state)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1)
    assert "24h" in answer.err or "30 days" in answer.err


@pytest.mark.parametrize(
    ("verb", "reason"),
    [
        (["show", D2], "not registered"),
        (["disable", D2], "not registered"),
        (["add", "d1"], "GID_group@@@device"),
        (["add", D2, "--role", "none"], "no role 'none'"),
        (["add", "GID_other@@@d2"], "no role of the policy matches"),
        (["add", D2, "--attr", "hall"], "NAME=VALUE"),
        (["add", D2, "--role", "press", "--attr", "hall=a/b"], "attribute hall"),
        (["add", D2, "--alg", "ES256", "--public-key", "missing.pem"], "missing.pem"),
    ],
)
def test_refusals_are_one_line(cli: Cli, state: str, verb: list[str], reason: str) -> None:
    """What is refused is reported in one line on stderr, and changes nothing."""
    answer = cli("devices", *verb, "--state", state)
    assert answer.code in {1, 2}
    assert answer.out == ""
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1
    assert json.loads(cli("devices", "list", "--state", state, "--json").out) == []


def test_a_second_registration(cli: Cli, state: str) -> None:
    """A device is registered once: a second registration is refused and the first secret stays good."""
    cli("devices", "add", D1, "--state", state)
    answer = cli("devices", "add", D1, "--state", state)
    assert (answer.code, answer.out) == (1, "")
    assert "registered already" in answer.err


def test_import_and_export(cli: Cli, state: str, tmp_path: Path) -> None:
    """A file of given secrets, public keys and devices without a key is imported, and what is exported comes back."""
    _, public = new_pair(Algorithm.EDDSA)
    lines = [
        {"client_id": D1, "secret": "s" * 32, "note": "given"},
        {"client_id": D2, "algorithm": "EdDSA", "public_key": public.reveal(), "disabled": True},
        {"client_id": "GID_plant@@@d3", "role": "press", "attributes": {"hall": "h7"}},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    answer = cli("devices", "import", str(tmp_path / "in.jsonl"), "--state", state, "--json")
    assert answer.code == 0, answer.err
    made = [json.loads(line) for line in answer.out.splitlines()]
    assert [set(line) for line in made] == [{"client_id"}, {"client_id"}, {"client_id", "secret"}]

    exported = cli("devices", "export", "--state", state)
    assert "2 with a shared secret" in exported.err
    assert "s" * 32 not in exported.out
    records = {record["client_id"]: record for record in map(json.loads, exported.out.splitlines())}
    assert records[D1]["note"] == "given"
    assert (records[D2]["disabled"], records[D2]["public_key"]) == (True, public.reveal())

    for client_id in records:
        cli("devices", "remove", client_id, "--state", state)
    (tmp_path / "again.jsonl").write_text(exported.out)
    assert cli("devices", "import", str(tmp_path / "again.jsonl"), "--state", state).code == 0
    again = cli("devices", "export", "--state", state).out
    without_time = [
        [{**json.loads(line), "created_at_ms": 0} for line in text.splitlines()] for text in (exported.out, again)
    ]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2"),
        ('{"client_id": "GID_plant@@@d2", "rule": "x"}', "line 2"),
        ('{"client_id": "GID_plant@@@d2", "secret": "short"}', "line 2: the secret has 5 bytes"),
        ('{"client_id": "GID_plant@@@d1"}', "line 2: GID_plant@@@d1 is in line 1 already"),
        ('{"client_id": "GID_plant@@@old"}', "line 2: GID_plant@@@old is registered already"),
    ],
)
def test_an_import_is_all_or_nothing(cli: Cli, state: str, tmp_path: Path, line: str, reason: str) -> None:
    """One wrong line is named by its number, and then nothing of the file is registered."""
    cli("devices", "add", "GID_plant@@@old", "--state", state)
    (tmp_path / "in.jsonl").write_text(f'{{"client_id": "{D1}"}}\n{line}\n')
    answer = cli("devices", "import", str(tmp_path / "in.jsonl"), "--state", state)
    assert (answer.code, answer.out) == (1, "")
    assert reason in answer.err
    assert [record["client_id"] for record in json.loads(cli("devices", "list", "--state", state, "--json").out)] == [
        "GID_plant@@@old"
    ]


def test_redis_out_of_reach(cli: Cli, state: str) -> None:
    """Without Redis a verb says so in one line."""
    path = Path(state) / "settings.env"
    path.write_text(path.read_text().replace("redis.sock", "gone.sock"))
    answer = cli("devices", "list", "--state", state)
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 1
