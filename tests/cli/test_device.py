"""``device`` as a plain client; its tour is tested in ``test_dev``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app.cli.device_live import renew_after_s
from app.cli.mqtt import MqttConnection
from app.cli.oauth import DeviceCredentials, Server
from app.model.secrets import ClientSecret
from tests import processes
from tests.processes import Dev

# The command line itself, with nothing changed but how long it waits before it renews.
IMPATIENT = """
from app.cli import device_live, main
device_live.renew_after_s = lambda expires_in_s: 0.2
main.run()
"""


# The command line itself, with a server that never answers a renewal.
HANGING = """
import threading
from app.cli import device_live, main, mqtt
def hang(*_):
    print("hanging", flush=True)
    threading.Event().wait()
def stop(self):
    print("asked to stop", flush=True)
device_live.renew_after_s = lambda expires_in_s: 0
device_live._request_next_token = hang
mqtt.MqttConnection.stop_waiting = stop
main.run()
"""


def token_of(dev: Dev, name: str) -> dict[str, Any]:
    """Request a token of an example device."""
    example = dev.json[name]
    credentials = DeviceCredentials(example["client_id"], ClientSecret(example["secret"]))
    return Server(dev.json["server"], credentials).token()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A running `dev`."""
    with processes.running_dev(tmp_path_factory.mktemp("device") / "state") as running:
        yield running


@pytest.mark.parametrize("expires_in_s", [65, 600, 1440, 3600, 86_400])
def test_when_to_renew(expires_in_s: int) -> None:
    """A device asks when the server would issue anew, somewhat later by chance, and long before the end."""
    margin_s = max(expires_in_s / 4, min(360, expires_in_s / 2))
    waits = [renew_after_s(expires_in_s) for _ in range(100)]
    assert all(expires_in_s - margin_s <= wait <= expires_in_s - margin_s * 0.9 for wait in waits)
    assert len(set(waits)) > 1


def test_it_stays_and_renews_in_place(dev: Dev) -> None:
    """A device that stays hears messages, renews over the same connection, still hears, and ends with Ctrl-C."""
    options = [
        "--state",
        str(dev.state),
        "--client-id",
        "GID_plant@@@dashboard",
        "--subscribe",
        "plant/+/up/#",
        "--json",
    ]
    staying = [sys.executable, "-c", IMPATIENT, "device", *options]
    with processes.running(staying, cwd=processes.ROOT, stdout=subprocess.PIPE) as device:
        assert device.stdout is not None
        lines = (json.loads(line) for line in device.stdout)
        assert next(lines) == {"what": "subscribed", "text": "plant/+/up/#"}
        assert next(lines)["what"] == "renewed"
        with MqttConnection(token_of(dev, "device")) as sensor:
            sensor.publish("plant/d1/up/t", "on time")
        assert {"what": "plant/d1/up/t", "text": "on time"} in lines
        assert next(lines)["what"] == "renewed"
        device.send_signal(signal.SIGINT)
        assert device.wait() == 0


def test_a_second_ctrl_c_does_not_wait(dev: Dev) -> None:
    """The first Ctrl-C lets a renewal end; where that hangs, a second one ends the program with exit code 130."""
    options = ["--state", str(dev.state), "--client-id", "GID_plant@@@dashboard", "--stay"]
    staying = [sys.executable, "-c", HANGING, "device", *options]
    with processes.running(staying, cwd=processes.ROOT, stdout=subprocess.PIPE) as device:
        assert device.stdout is not None
        assert device.stdout.readline() == b"hanging\n"
        device.send_signal(signal.SIGINT)
        assert device.stdout.readline() == b"asked to stop\n"
        device.send_signal(signal.SIGINT)
        assert device.wait() == 130


def test_it_says_why_it_was_cut_off(dev: Dev) -> None:
    """A device whose token is revoked while it stays ends with the broker's own reason."""
    options = ["--state", str(dev.state), "--stay", "--subscribe", "plant/d1/down/#"]
    staying = [sys.executable, "-m", "app", "device", *options]
    disable = [sys.executable, "-m", "app", "devices", "disable", "GID_plant@@@d1", "--state", str(dev.state)]
    with processes.running(staying, cwd=processes.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as device:
        assert device.stdout is not None
        assert device.stderr is not None
        assert device.stdout.readline().startswith(b"subscribed")
        subprocess.run(disable, cwd=processes.ROOT, check=True, capture_output=True)
        assert device.wait() == 1
        assert b"reason 3: the token was revoked" in device.stderr.read()
