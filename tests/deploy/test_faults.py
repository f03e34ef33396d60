"""What an operator copies works: the files are right, and devices are served while parts of the deployment die."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.deploy.faults import FAULTS, rehearsing
from tests.deploy.site import DEPLOY
from tests.processes import ROOT

FAULT = "kill -9 of an instance"
PAGE = (DEPLOY / "README.md").read_text()


async def test_a_death_behind_the_balancer_is_never_answered_wrongly(need_program: Callable[[str], str]) -> None:
    """Each answer is right or an honest 503, revoked tokens stay gone, and service is full again without a hand.

    Then the page's own curl line gets a token, over TLS checked against the authority that ``prepare`` made. The other
    faults are in the rehearsal that .ci/run runs beside the tests.
    """
    curl = need_program("curl")
    need_program("openssl")
    async with rehearsing(need_program("haproxy")) as (site, rehearsal):
        row = await rehearsal.row(FAULT, FAULTS[FAULT])
        line = next(line for line in PAGE.splitlines() if "oauth/token" in line)
        line = line.replace("deploy/private", str(site.private)).replace("https://localhost:8443", site.url)
        device = rehearsal._devices[0]
        line = line.replace("GID_plant@@@d1:$SECRET", f"{device.client_id}:{device.key}")
        words = [curl, "-sS", *shlex.split(line)[1:]]
        run = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        answer, _ = await run.communicate()
    assert row.complaints == ()
    assert row.wrong == 0
    assert row.right > row.refused
    assert row.applied == 2 * row.tokens
    assert json.loads(answer)["mqtt"]["client_id"] == device.client_id


def test_the_image_is_built_as_hadolint_advises() -> None:
    """The Dockerfile has no finding."""
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_every_file_the_page_names_is_there() -> None:
    """The table names what lies beside it, and nothing else."""
    named = set(re.findall(r"`([a-z@A-Z._-]+)`", PAGE[: PAGE.index("## On one machine")])) - {"FOLDER"}
    assert {name for name in named if not (DEPLOY / name).exists()} <= {"build FOLDER"}
    assert (ROOT / "Procfile").read_text().startswith("web: gunicorn")
