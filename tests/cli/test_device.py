"""``device`` as a plain client; its tour is told in ``test_dev``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.cli.device_live import renew_after_s
from tests import processes
from tests.processes import Dev

# The command line itself, with nothing changed but how long it waits before it renews.
IMPATIENT = """
from app.cli import device_live, main
device_live.renew_after_s = lambda expires_in_s: 0.2
main.run()
"""


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
    speaking = [sys.executable, "-m", "app", "device", "--state", str(dev.state), "--publish", "plant/d1/up/t=on time"]
    with processes.running(staying, cwd=processes.ROOT, stdout=subprocess.PIPE) as device:
        assert device.stdout is not None
        lines = (json.loads(line) for line in device.stdout)
        assert next(lines) == {"what": "subscribed", "text": "plant/+/up/#"}
        assert next(lines)["what"] == "renewed"
        subprocess.run(speaking, cwd=processes.ROOT, check=True, capture_output=True, timeout=30)
        assert {"what": "plant/d1/up/t", "text": "on time"} in lines
        assert next(lines)["what"] == "renewed"
        device.send_signal(signal.SIGINT)
        assert device.wait(10) == 0


def test_it_says_why_it_was_cut_off(dev: Dev) -> None:
    """A device whose token is revoked while it stays ends with the broker's own reason."""
    options = ["--state", str(dev.state), "--stay", "--subscribe", "plant/d1/down/#"]
    staying = [sys.executable, "-m", "app", "device", *options]
    disable = [sys.executable, "-m", "app", "devices", "disable", "GID_plant@@@d1", "--state", str(dev.state)]
    with processes.running(staying, cwd=processes.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as device:
        assert device.stdout is not None
        assert device.stderr is not None
        assert device.stdout.readline().startswith(b"subscribed")
        subprocess.run(disable, cwd=processes.ROOT, check=True, capture_output=True, timeout=30)
        assert device.wait(20) == 1
        assert b"reason 3: the token was revoked" in device.stderr.read()
