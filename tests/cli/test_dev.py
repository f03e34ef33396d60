"""``dev`` from end to end: real processes, the commands it prints, and what is left when it is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from alibabacloud_onsmqtt20200420 import models
from alibabacloud_onsmqtt20200420.client import Client
from alibabacloud_tea_openapi.models import Config as SdkConfig

from app.embedded.example import read_settings
from app.model.operators import OperatorRole
from app.model.secrets import Password, Secret
from app.service.sign_in import SignedIn, SignIn
from app.store.operators import Operators
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from tests import processes
from tests.processes import Dev


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A `dev` of two instances, for the tests that leave it whole."""
    with processes.running_dev(tmp_path_factory.mktemp("dev") / "state", "--instances", "2") as running:
        yield running


def paste(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as a newcomer would: pasted into a shell, in the repository."""
    return subprocess.run(
        ["bash", "-c", command], cwd=processes.ROOT, capture_output=True, text=True, check=False, timeout=50
    )


def fetch(dev: Dev) -> dict[str, Any]:
    """Request the example device's token."""
    answer: dict[str, Any] = json.loads(paste(f"{dev.command('-m app device')} --print").stdout)
    return answer


def curl(dev: Dev, need_program: Callable[[str], str], server: str = "") -> dict[str, Any]:
    """Fetch a token by the printed curl line, or by the same line at another instance."""
    need_program("curl")
    own = dev.json["server"]
    answer: dict[str, Any] = json.loads(paste(dev.command("curl").replace(own, server or own)).stdout)
    assert "access_token" in answer, answer
    return answer


def calls(dev: Dev) -> int:
    """How many ApplyToken calls the sandbox has counted."""
    with urlopen(f"{dev.json['sandbox']}/_sandbox/calls", timeout=5) as reply:  # noqa: S310 - dev's own
        return sum(json.load(reply).get("ApplyToken", {}).values())


def dev_says(dev: Dev, text: str) -> bool:
    """Tell whether `dev` has said so."""
    return text in dev.said


def dev_lists(dev: Dev, pid: int) -> bool:
    """Tell whether ``dev.json`` holds a process ID."""
    return pid in dev.pids


def test_dev_json(dev: Dev) -> None:
    """``dev.json`` can be read only by its owner, and has the addresses, names, secrets and process IDs."""
    content = dev.json
    assert (dev.state / "dev.json").stat().st_mode & 0o777 == 0o600
    assert content["issuer"] == content["server"] == content["instances"][0]["url"]
    assert content["redis"].startswith("unix:///")
    assert set(content["mqtt"]) == {"host", "port"}
    assert [set(instance) for instance in content["instances"]] == [{"url", "pid"}] * 2
    assert set(content["operator"]) == {"name", "password"}
    assert content["device"]["client_id"] == "GID_plant@@@d1"
    assert len(content["device"]["secret"]) >= 32
    assert content["pids"]["dev"] == dev.process.pid
    assert all(processes.alive(pid) for pid in dev.pids)
    for name in ("instance_id", "access_key_id", "access_key_secret", "sandbox"):
        assert content[name]


def test_secrets_are_private(dev: Dev) -> None:
    """No other user can read anything in the state directory."""
    assert dev.state.stat().st_mode & 0o077 == 0
    for name in ("settings.env", "example.json", "dev.json", "policy.toml"):
        assert (dev.state / name).stat().st_mode & 0o077 == 0


def test_logs_hold_no_secret(dev: Dev) -> None:
    """After a token was fetched, neither it nor any key is in a log."""
    token = fetch(dev)
    content = dev.json
    logs = "".join(path.read_text(errors="replace") for path in (dev.state / "logs").iterdir())
    assert logs
    for secret in (
        content["device"]["secret"],
        content["operator"]["password"],
        content["access_key_secret"],
        token["mqtt"]["tokens"][0]["token"],
    ):
        assert secret not in logs


def test_the_printed_curl_line(dev: Dev, need_program: Callable[[str], str]) -> None:
    """The printed curl line, pasted, fetches a token; pasted again, the same one, without another ApplyToken."""
    first = curl(dev, need_program)
    assert first["scope"] == "pub:plant/d1/up/#"
    counted = calls(dev)
    assert curl(dev, need_program)["access_token"] == first["access_token"]
    assert curl(dev, need_program, dev.json["instances"][1]["url"])["access_token"] == first["access_token"]
    assert calls(dev) == counted


def test_the_example_operator(dev: Dev) -> None:
    """The welcome shows the console's address and an operator, who is an admin and has the password shown."""
    operator = dev.json["operator"]
    console = f"  console  {dev.json['server']}/admin/ (name {operator['name']}, password {operator['password']})\n"
    assert console in dev.said
    listed = json.loads(paste(f"{sys.executable} -m app operators list --json --state {dev.state}").stdout)
    assert [(each["name"], each["role"]) for each in listed] == [("admin", "admin")]
    keys = SealingKeys.parse(Secret(read_settings(dev.state / "settings.env")["SEALING_KEYS"]))

    async def sign_in() -> SignedIn:
        store = Store(Secret(dev.json["redis"]))
        operators = Operators(store, keys)
        try:
            sign_in = SignIn(operators, Sessions(store, keys, operators))
            return await sign_in.sign_in(operator["name"], Password(operator["password"]), "127.0.0.1")
        finally:
            await store.close()

    assert asyncio.run(sign_in()).operator.role is OperatorRole.ADMIN


def test_the_tour(dev: Dev) -> None:
    """The printed `device` line runs the tour, from a token to the end of the connection with its reason."""
    for _ in range(2):  # a second time, from what the first one left
        ended = paste(dev.command("-m app device"))
        assert ended.returncode == 0, ended.stderr
        steps = ended.stdout.splitlines()
        names = ["token", "connected", "inside", "inside", "renewed", "revoked", "still on", "outside"]
        assert [step[:12].strip() for step in steps] == names
        assert "reason 4: the topic is outside the token's resources" in steps[-1]


def test_the_tour_for_machines(dev: Dev) -> None:
    """With ``--json`` every step is one line with a JSON object."""
    ended = paste(f"{dev.command('-m app device')} --json")
    assert ended.returncode == 0, ended.stderr
    assert {"what", "text"} == set(json.loads(ended.stdout.splitlines()[-1]))


def test_print_and_password(dev: Dev) -> None:
    """``--print`` prints the whole token answer, ``--password`` the MQTT password of the same token."""
    device = dev.command("-m app device")
    answer = json.loads(paste(f"{device} --print").stdout)
    assert answer["mqtt"]["client_id"] == "GID_plant@@@d1"
    assert paste(f"{device} --password").stdout.strip() == answer["mqtt"]["password"] == answer["access_token"]
    narrow = json.loads(paste(f"{device} --print --scope pub:plant/d1/up/x --expires-in 600").stdout)
    assert narrow["scope"] == "pub:plant/d1/up/x"
    assert narrow["expires_in"] <= 600


@pytest.mark.parametrize("algorithm", ["HS256", "ES256", "EdDSA", "RS256"])
def test_a_device_of_ones_own(dev: Dev, tmp_path: Path, algorithm: str) -> None:
    """A device registered with any algorithm proves itself with what `add` showed, and works as a plain client."""
    app = f"{sys.executable} -m app"
    client_id = f"GID_plant@@@own-{algorithm}"
    added = json.loads(paste(f"{app} devices add {client_id} --alg {algorithm} --json --state {dev.state}").stdout)
    option = "--secret-file" if algorithm == "HS256" else "--private-key"
    (tmp_path / "key").write_text(added["secret" if algorithm == "HS256" else "private_key"])
    device = f"{app} device --state {dev.state} --client-id {client_id} {option} {tmp_path / 'key'}"
    inside = paste(f"{device} --publish plant/own-{algorithm}/up/t=1")
    assert (inside.returncode, inside.stdout.split()) == (0, ["published", f"plant/own-{algorithm}/up/t"])
    outside = paste(f"{device} --publish plant/other/up/t=1")
    assert outside.returncode == 1
    assert "reason 4" in outside.stderr
    assert len(outside.stderr.splitlines()) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_message_of_the_api_reaches_mosquitto(dev: Dev, need_program: Callable[[str], str]) -> None:
    """What an official SDK sends by SendMessage a mosquitto_sub prints that logged in with this server's token."""
    mqtt = fetch(dev)["mqtt"]
    listen = [need_program("mosquitto_sub"), "-h", mqtt["host"], "-p", str(mqtt["port"]), "-c", "-q", "1", "-v"]
    listen += ["-i", mqtt["client_id"], "-u", mqtt["username"], "-P", mqtt["password"], "-t", "plant/d1/down/#"]
    subprocess.run([*listen, "-E"], check=True, timeout=20)  # subscribes under a session that stays
    config = SdkConfig(
        access_key_id=dev.json["access_key_id"],
        access_key_secret=dev.json["access_key_secret"],
        endpoint=urlsplit(dev.json["sandbox"]).netloc,
        protocol="http",
    )
    message = models.SendMessageRequest(
        instance_id=dev.json["instance_id"], mqtt_topic="plant/d1/down/led", payload="on"
    )
    assert Client(config).send_message(message).body.msg_id
    heard = subprocess.run([*listen, "-C", "1"], check=True, timeout=20, capture_output=True, text=True)
    assert heard.stdout == "plant/d1/down/led on\n"


def test_a_device_of_a_group_that_is_not_there(dev: Dev, tmp_path: Path) -> None:
    """It gets a token; the broker's refusal is reported with its probable cause."""
    client_id = "GID_elsewhere@@@d1"
    app = f"{sys.executable} -m app"
    added = paste(f"{app} devices add {client_id} --role sensor --json --state {dev.state}")
    (tmp_path / "secret").write_text(json.loads(added.stdout)["secret"])
    device = f"{app} device --state {dev.state} --client-id {client_id} --secret-file {tmp_path / 'secret'}"
    ended = paste(f"{device} --publish plant/d1/up/t=1")
    assert ended.returncode == 1
    assert "the group of the client ID does not exist: CreateGroupId creates it" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_refused_device_is_one_line(dev: Dev, tmp_path: Path) -> None:
    """A wrong secret, an unknown device and a scope outside the role are each one line."""
    (tmp_path / "wrong").write_text("w" * 40)
    device = f"{sys.executable} -m app device --state {dev.state} --print"
    for options, reason in (
        (f"--client-id GID_plant@@@d1 --secret-file {tmp_path / 'wrong'}", "invalid_client"),
        (f"--client-id GID_plant@@@nobody --secret-file {tmp_path / 'wrong'}", "invalid_client"),
        ("--scope pub:plant/d2/up/#", "invalid_scope"),
        ("--expires-in 0", "expires_in must be"),
    ):
        ended = paste(f"{device} {options}")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert reason in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--publish 'plant/#=1'", "cannot publish to 'plant/#'"),
        ("--subscribe ''", "cannot subscribe to ''"),
        ("--print --server nonsense", "is not the URL of a token server"),
        ("--print --server 'http://[nonsense'", "is not the URL of a token server"),
    ],
)
def test_what_the_device_cannot_do_is_one_line(dev: Dev, options: str, reason: str) -> None:
    """An invalid topic, topic filter or server is reported in one line, with exit code 2."""
    ended = paste(f"{sys.executable} -m app device --state {dev.state} {options}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert reason in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_printed_mosquitto_lines(dev: Dev, need_program: Callable[[str], str], tmp_path: Path) -> None:
    """The printed mosquitto lines, pasted: what the device publishes inside its role, the dashboard hears."""
    need_program("mosquitto_sub")
    heard = tmp_path / "heard"
    with heard.open("wb") as output:
        listening = ["bash", "-c", f"exec stdbuf -oL {dev.command('mosquitto_sub')} -d"]
        with processes.running(listening, cwd=processes.ROOT, stdout=output, stderr=output):
            processes.wait_until(lambda: "SUBACK" in heard.read_text(), "the subscription")
            spoken = paste(dev.command("mosquitto_pub"))
            assert spoken.returncode == 0, spoken.stderr
            processes.wait_until(lambda: "plant/d1/up/temperature 21.5" in heard.read_text(), "the message")


def test_mosquitto_is_cut_off_outside(dev: Dev, need_program: Callable[[str], str]) -> None:
    """The same client, publishing outside the role, loses its connection."""
    need_program("mosquitto_pub")
    command = dev.command("mosquitto_pub").replace("plant/d1/up/temperature", "plant/d2/up/temperature")
    assert paste(command).returncode != 0


def test_a_second_dev_is_refused(dev: Dev) -> None:
    """A second `dev` on the same state is refused in one line, and harms nothing."""
    ended = paste(f"{sys.executable} -m app dev --state {dev.state}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {dev.state} is in use by another dev (pid {dev.process.pid})")
    assert len(ended.stderr.splitlines()) == 1
    assert all(processes.alive(pid) for pid in dev.pids)


@pytest.mark.parametrize("option", ["--port", "--sandbox-port", "--mqtt-port"])
def test_a_busy_port_is_one_line(tmp_path: Path, option: str) -> None:
    """A busy port is one line that names the port and the option to change; nothing is started."""
    ports = dict(zip(("--port", "--sandbox-port", "--mqtt-port"), processes.free_ports(3), strict=True))
    chosen = " ".join(f"{name} {port}" for name, port in ports.items())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[option]))
        taken.listen()
        ended = paste(f"{sys.executable} -m app dev --state {tmp_path / 'state'} {chosen}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: port {ports[option]} is in use: choose another with {option}\n"
    assert not (tmp_path / "state" / "logs").exists()


def test_two_parts_on_one_port(tmp_path: Path) -> None:
    """Two parts that would share a port are refused before anything is touched."""
    ended = paste(f"{sys.executable} -m app dev --state {tmp_path / 'state'} --port 8090")
    assert ended.returncode == 2
    assert "share a port" in ended.stderr
    assert not (tmp_path / "state").exists()


def test_a_killed_part_comes_back(tmp_path: Path) -> None:
    """Valkey, the sandbox and an instance are each killed, come back, are said so, and the token is still the same."""
    with processes.running_dev(tmp_path / "state") as dev:
        token = fetch(dev)["access_token"]
        for name, pid in (
            ("valkey", dev.json["pids"]["redis"]),
            ("sandbox", dev.json["pids"]["sandbox"]),
            ("instance 0", dev.json["instances"][0]["pid"]),
        ):
            os.kill(pid, signal.SIGKILL)
            line = f"{name} died (signal 9): started again, pid "
            processes.wait_until(partial(dev_says, dev, line), f"the return of {name}")
            again = int(dev.said.partition(line)[2].split()[0])
            processes.wait_until(partial(dev_lists, dev, again), f"{name} in dev.json")
            assert fetch(dev)["access_token"] == token


def test_the_other_instance_goes_on(tmp_path: Path, need_program: Callable[[str], str]) -> None:
    """After ``kill -9`` of one instance the other returns the same token, without another ApplyToken."""
    with processes.running_dev(tmp_path / "state", "--instances", "2") as dev:
        token = curl(dev, need_program)["access_token"]
        counted = calls(dev)
        first, second = dev.json["instances"]
        os.kill(first["pid"], signal.SIGKILL)
        assert curl(dev, need_program, second["url"])["access_token"] == token
        assert calls(dev) == counted


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_and_the_state_stays(tmp_path: Path, end: signal.Signals) -> None:
    """However `dev` ends, no process is left behind; the next one finds its state and hands out the same token."""
    ports = processes.free_ports(3)
    with processes.running_dev(tmp_path / "state", ports=ports) as dev:
        token = fetch(dev)["access_token"]
        before, pids = dev.json, dev.pids
        dev.process.send_signal(end)
        code = dev.process.wait(20)
        processes.wait_until(lambda: not any(map(processes.alive, pids)), "the end of all parts", within_s=5)
        if end != signal.SIGKILL:
            assert code == 0
            assert not (dev.state / "dev.json").exists()
    with processes.running_dev(tmp_path / "state", ports=ports) as dev:
        after = dev.json
        assert {**after, "pids": 0, "instances": 0} == {**before, "pids": 0, "instances": 0}
        assert fetch(dev)["access_token"] == token
        assert float(dev.said.partition("Ready in ")[2].split()[0]) < 10


def test_ctrl_c_while_starting(tmp_path: Path) -> None:
    """Ctrl-C before everything is ready ends `dev` just as well."""
    port, sandbox, mqtt = processes.free_ports(3)
    chosen = ["--port", str(port), "--sandbox-port", str(sandbox), "--mqtt-port", str(mqtt)]
    command = [sys.executable, "-m", "app", "dev", "--state", str(tmp_path / "state"), *chosen]
    with processes.running(command, cwd=processes.ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"valkey is ready" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        said = process.stdout.read().decode()
    assert "stopped" in said
    assert "Ready in" not in said


def test_a_wrong_policy_is_reported(tmp_path: Path) -> None:
    """A policy in the state directory that is wrong stops `dev` with one line that names file and key."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "policy.toml").write_text("[roles.sensor]\npublsh = []\n")
    port, sandbox, mqtt = processes.free_ports(3)
    ended = paste(
        f"{sys.executable} -m app dev --state {state} --port {port} --sandbox-port {sandbox} --mqtt-port {mqtt}"
    )
    assert ended.returncode == 2
    assert f"{state / 'policy.toml'}" in ended.stderr
    assert "publsh" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
