"""``python -m tests.benchmarks.takeback [--tokens N] [--kills N] [--json]``: revokes the tokens of a whole fleet.

``dev --instances 3`` with raised quotas, here and at the sandbox. It issues N live tokens of 24 h of one role, and some
of another. One command revokes the role and shows its progress and estimate, while instances are killed. At the end the
tokens whose revocation is confirmed here are compared with those that are revoked at the sandbox. It exits with 1 if a
promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import aiohttp

from app.assembly import AdminServices, open_admin_services
from app.embedded.example import load_settings, read_settings
from app.logs import configure_logging
from app.model.actors import Actor
from app.service.registry import Registration
from app.settings import Settings
from tests import processes
from tests.actors import CLI
from tests.benchmarks.terminal import Command
from tests.callers import Caller
from tests.clouds import Cloud
from tests.sandbox.device import Device

INSTANCES: Final = 3
LIFE_S: Final = 24 * 3600
TOKENS_A_DEVICE: Final = 100
BYSTANDERS: Final = 5
AT_ONCE: Final = 24
PATIENCE_S: Final = 900
LOOK_EVERY_S: Final = 0.1
MIN_CONFIRMED: Final = 0.99
REVOKED: Final = 3
"""The broker's notice about a revoked token (guide chapter 10)."""

POLICY: Final = f"""
[roles.fleet]
match = ["GID_plant@@@f*"]
publish = ["fleet/{{device_id}}/#"]
default_lifetime_s = {LIFE_S}
max_lifetime_s = {LIFE_S}

[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/{{device_id}}/up/#"]
subscribe = ["plant/{{device_id}}/down/#", "plant/all"]
default_lifetime_s = {LIFE_S}
max_lifetime_s = {LIFE_S}

[roles.dashboard]
subscribe = ["plant/+/up/#"]
"""


@dataclass(frozen=True)
class Seen:
    """The results. Times are in seconds."""

    tokens: int
    devices: int
    made_in_s: float
    counted: int
    queued_in_s: float
    first_estimate: str
    bars: int
    revoked_in_s: float
    killed: int
    confirmed: int
    revoked_at_the_cloud: int
    equal: bool
    """Whether the tokens confirmed here are exactly those revoked at the cloud."""
    others_left_alone: bool
    calls: dict[str, int]
    client_cut_after_s: float
    exit_code: int

    @property
    def holds(self) -> bool:
        """Return whether all promises are kept."""
        return (
            self.counted == self.tokens
            and self.confirmed >= MIN_CONFIRMED * self.tokens
            and self.equal
            and self.others_left_alone
            and self.bars > 0
            and bool(self.first_estimate)
            and self.exit_code == 0
        )

    def __str__(self) -> str:
        same = "the same ones" if self.equal else "NOT the same"
        sent = ", ".join(f"{result} {count}" for result, count in sorted(self.calls.items()))
        lines = {
            "made": f"{self.tokens} live tokens of {LIFE_S // 3600} h, {self.devices} devices, {self.made_in_s:.0f} s",
            "counted": f"{self.counted} before it was done; all queued after {self.queued_in_s:.1f} s",
            "estimate": f"{self.first_estimate} at first; it took {self.revoked_in_s:.0f} s; {self.bars} bars printed",
            "killed": f"{self.killed} of {INSTANCES} instances on the way",
            "client": f"cut by the broker {self.client_cut_after_s:.1f} s after the command began",
            "confirmed": f"{self.confirmed} ({self.confirmed / self.tokens:.2%}); "
            f"the cloud holds {self.revoked_at_the_cloud} as revoked: {same}",
            "others": "left alone" if self.others_left_alone else "NOT left alone",
            "calls": f"RevokeToken {sent}",
        }
        return "\n".join(f"{name:<10} {line}" for name, line in lines.items())


def main() -> None:
    """Run it and print the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.takeback", description="Takes a fleet back.")
    parser.add_argument("--tokens", type=int, default=10_000, help="live tokens of the role (default 10000)")
    parser.add_argument("--kills", type=int, default=2, choices=range(INSTANCES), help="instances killed on the way")
    parser.add_argument("--qps", type=int, default=150, help="the raised quota of RevokeToken (default 150 a second)")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    options = parser.parse_args()
    configure_logging("error")
    with tempfile.TemporaryDirectory(prefix="takeback-") as directory:
        seen = take_back(Path(directory) / "state", options.tokens, options.kills, options.qps)
    print(json.dumps(asdict(seen)) if options.json else seen)
    sys.exit(0 if seen.holds else 1)


def take_back(state: Path, tokens: int, kills: int, qps: int) -> Seen:
    """Issue this many tokens in a new ``dev`` on ``state``, and revoke them."""
    settle(state, qps)
    with processes.running_dev(state, "--instances", str(INSTANCES)) as dev:
        return asyncio.run(Fleet(dev, tokens).take_back(kills, qps))


def settle(state: Path, qps: int) -> None:
    """Write the policy and the raised quotas for ``dev``."""
    state.mkdir(mode=0o700)
    (state / "policy.toml").write_text(POLICY, encoding="utf-8")
    raised = {"APPLY_TOKEN_QPS": "2000", "REVOKE_TOKEN_QPS": str(qps), "EGRESS_QPS": "4000"}
    load_settings(state, raised | {"DEVICE_MAX_LIVE_TOKENS": "1000", "DEVICE_MAX_NEW_TOKENS_PER_HOUR": "1000"})


class Fleet:
    """Devices with many tokens each, and their operator."""

    def __init__(self, dev: processes.Dev, tokens: int) -> None:
        self._dev = dev
        self._tokens = tokens
        self._settings = Settings.load(read_settings(dev.state / "settings.env"))
        self._hash_of: dict[str, str] = {}
        self._others: set[str] = set()

    async def take_back(self, kills: int, qps: int) -> Seen:
        """Issue the tokens, revoke them, and check what is left."""
        names = [f"GID_plant@@@f{number}" for number in range(math.ceil(self._tokens / TOKENS_A_DEVICE))]
        others = [f"GID_plant@@@s{number}" for number in range(BYSTANDERS)]
        async with (
            aiohttp.ClientSession() as session,
            open_admin_services(self._settings, actor=Actor("cli:benchmark")) as office,
        ):
            cloud = Cloud(self._dev.json["sandbox"], session)
            await cloud.limit(qps={"ApplyToken": 2000, "RevokeToken": qps}, egress_qps=4000)
            began = time.monotonic()
            passwords = await self._make(session, office, names, others)
            made_in_s = time.monotonic() - began
            async with self._connected(names[0], passwords[names[0]]) as client:
                with self._command() as command:
                    job, cut_after_s = await self._watch(office, command, client, kills)
                    exit_code = await asyncio.to_thread(command.wait, PATIENCE_S)
                    revoked_in_s = time.monotonic() - command.began
            done = await office.jobs.get_job(job)
            confirmed = await self._confirmed(office)
            revoked = {each["sha256"] for each in await cloud.tokens() if each["revoked"]}
            return Seen(
                tokens=self._tokens,
                devices=len(names),
                made_in_s=made_in_s,
                counted=done.counted,
                queued_in_s=(done.done_at_ms - done.created_at_ms) / 1000,
                first_estimate=next(iter(command.found(r"about (\S+ \S+)")), ""),
                bars=len(command.found(r"(confirmed [\d,]+)")),
                revoked_in_s=revoked_in_s,
                killed=kills,
                confirmed=len(confirmed),
                revoked_at_the_cloud=len(revoked),
                equal=confirmed == revoked,
                others_left_alone=not self._others & revoked,
                calls=await cloud.calls("RevokeToken"),
                client_cut_after_s=cut_after_s,
                exit_code=exit_code,
            )

    async def _make(
        self, session: aiohttp.ClientSession, office: AdminServices, names: list[str], others: list[str]
    ) -> dict[str, str]:
        """Have every device request its tokens, at all instances in turn; returns the last password of each."""
        passwords: dict[str, str] = {}
        urls = [instance["url"] for instance in self._dev.json["instances"]]
        secret_of = {name: await _register(office, name) for name in [*names, *others]}
        asked: Iterator[tuple[int, str, str]] = iter(
            [
                *((number, names[number % len(names)], f"pub:fleet/{{}}/{number}") for number in range(self._tokens)),
                *((number, name, "pub:plant/{}/up/#") for number, name in enumerate(others)),
            ]
        )

        async def ask() -> None:
            for number, name, scope in asked:
                url = urls[number % len(urls)]
                device = Caller(session, url, name, secret_of[name])
                form = {"grant_type": "client_credentials", "scope": scope.format(name.rpartition("@")[2])}
                answer = await device.post(f"{url}/oauth/token", form, headers=device.basic())
                if answer.status != 200:
                    raise RuntimeError(f"no token: {answer}")
                [token] = answer.body["mqtt"]["tokens"]
                digest = hashlib.sha256(token["token"].encode()).hexdigest()
                if name in others:
                    self._others.add(digest)
                else:
                    self._hash_of[answer.body["handle"]] = digest
                passwords[name] = answer.body["access_token"]

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(ask())
        return passwords

    @asynccontextmanager
    async def _connected(self, client_id: str, password: str) -> AsyncIterator[Device]:
        content = self._dev.json
        device = Device(
            content["mqtt"]["port"], client_id, password, username=self._settings.mqtt_username, keep_alive_s=600
        )
        await device.connect()
        if device.code != 0:
            raise RuntimeError(f"the broker refused the client: {device.code}")
        try:
            yield device
        finally:
            await device.close()

    @contextmanager
    def _command(self) -> Iterator[Command]:
        words = ["tokens", "revoke", "--role", "fleet", "--yes", "--state", str(self._dev.state)]
        with Command([sys.executable, "-m", "app", *words], processes.ROOT) as command:
            yield command

    async def _watch(self, office: AdminServices, command: Command, client: Device, kills: int) -> tuple[str, float]:
        """Kill instances while the job runs; returns the job, and the seconds until the client was disconnected."""
        cut_at: list[float] = []

        async def until_cut() -> None:
            while not client.over:  # noqa: ASYNC110 - paho lives in a thread
                await asyncio.sleep(0.02)
            cut_at.append(time.monotonic())
            reasons = [notice["code"] for notice in client.notices()]
            if reasons != [REVOKED]:
                raise RuntimeError(f"the client was cut for another reason: {reasons}")

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(until_cut())
            while not (jobs := (await office.jobs.list_jobs()).jobs):  # noqa: ASYNC110 - another process begins it
                await asyncio.sleep(LOOK_EVERY_S)
            for number in range(1, kills + 1):
                enough = self._tokens * number / (INSTANCES + 1)
                while (await office.jobs.get_job(jobs[0].id)).confirmed < enough:  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(LOOK_EVERY_S)
                os.kill(self._dev.json["instances"][number]["pid"], signal.SIGKILL)
        return jobs[0].id, cut_at[0] - command.began

    async def _confirmed(self, office: AdminServices) -> set[str]:
        """Return the hashes of the tokens whose revocation is confirmed here."""
        confirmed = set()
        for handle, digest in self._hash_of.items():
            if (await office.revocations.get_token(handle)).revocation == "confirmed":
                confirmed.add(digest)
        return confirmed


async def _register(office: AdminServices, client_id: str) -> str:
    registered = await office.registry.add_device(Registration(client_id), actor=CLI)
    assert registered.secret is not None
    return registered.secret.reveal()


if __name__ == "__main__":
    main()
