"""Histories that hypothesis makes up, and where they are played."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp
import hypothesis
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from app.model.secrets import AccessKeySecret
from app.model.selections import Selection
from app.sandbox.access_keys import AccessKey
from app.sandbox.server import SandboxConfig, start_sandbox
from app.settings import Settings
from tests.clouds import Cloud
from tests.histories.instance import Death, driven_by_hand, own_tasks
from tests.histories.ledger import CLIENTS, POLICIES, ROLES, Broken
from tests.histories.world import Change, Event, Key, World
from tests.processes import running_valkey
from tests.sealing_keys import new_key_text

STEPS: Final = 25
"""The most steps of a history, before it is brought to its end."""

DEVICE = st.sampled_from(sorted(CLIENTS))
AT = st.sampled_from([1, 2])
WHICH = st.integers(0, 3)
DEATH = st.sampled_from(
    [None] * 9 + [Death(command, before=before) for command in (1, 2, 3) for before in (True, False)]
)
SCOPE = st.sampled_from([None, None, "pub:plant/d1/up/a", "pub:plant/d2/up/b", "sub:plant/all", "pub:plant/d1/up/+"])
LIFE_S = st.sampled_from([None, None, 90, 400])
REVOKED: Final = (
    *(f"token {which} by {way}" for which in (0, 0, 1, 2) for way in ("device", "service", "operator")),
    *(f"client_id={client_id}" for client_id in CLIENTS.values()),
    *(f"role={role}" for role in ROLES.values()),
    *(f"topic={topic}" for topic in ("plant/d1/up/a", "plant/all", "pub:plant/d2/up/b", "sub:plant/d1/down/x")),
    "everything",
)
CHANGES: Final = ("disable", "enable", "enable", "rotate", "rotate with grace", "remove", "add", "add")


class Stage:
    """Where histories are played: one Redis, one sandbox and one event loop for all of them."""

    def __init__(self, runner: asyncio.Runner, world: World) -> None:
        self.world = world
        self.histories = 0
        """How many were started."""
        self.broken: Broken | None = None
        self.broken_in = 0
        """The first history in which a promise was broken."""
        self._runner = runner

    @property
    def seen(self) -> Counter[str]:
        """What the histories were about."""
        return self.world.ledger.seen

    def play(self, steps: Coroutine[Any, Any, None]) -> None:
        """Take a step, and note the first that breaks a promise."""
        try:
            self._runner.run(steps)
        except Broken as broken:
            if self.broken is None:
                self.broken, self.broken_in = broken, self.histories
            raise


class History(RuleBasedStateMachine):
    """One history: its rules are the steps, in any order."""

    stage: ClassVar[Stage]

    @initialize()
    def begin(self) -> None:
        """Begin with two devices that have asked both instances once."""
        self.stage.histories += 1
        self.world = self.stage.world
        self._play(self.world.begin())
        for device in CLIENTS:
            for at in (1, 2):
                self._play(self.world.request(device, at, None, None, "new"))

    @rule(device=DEVICE, at=AT, scope=SCOPE, life_s=LIFE_S, key=st.sampled_from(["new", "new", "old"]))
    def request(self, device: str, at: int, scope: str | None, life_s: int | None, key: Key) -> None:
        """A device asks for a token."""
        self._play(self.world.request(device, at, scope, life_s, key))

    @rule(device=DEVICE, at=AT, held=st.booleans())
    def apply(self, device: str, at: int, *, held: bool) -> None:
        """A device asks for what it never had; the cloud answers at once, or keeps it waiting."""
        self._play(self.world.apply(device, at, held=held))

    @rule(which=WHICH, at=AT)
    def replay(self, which: int, at: int) -> None:
        """A used assertion is sent again."""
        self._play(self.world.replay(which, at))

    @rule(what=st.sampled_from(REVOKED), at=AT, death=DEATH)
    def revoke(self, what: str, at: int, death: Death | None) -> None:
        """A token, a device's, a role's, a topic's or all tokens are revoked."""
        kind, _, rest = what.partition(" ")
        if kind == "token":
            which, _, way = rest.partition(" by ")
            self._play(self.world.revoke_token(int(which), way, at, death))
        else:
            self._play(self.world.revoke(Selection.from_text(what), at, death))

    @rule(at=AT, shards=st.sampled_from([100, 30]))
    def work(self, at: int, shards: int) -> None:
        """An instance goes on with the jobs."""
        self._play(self.world.work(at, shards))

    @rule(device=DEVICE, at=AT, change=st.sampled_from(CHANGES), death=DEATH)
    def change(self, device: str, at: int, change: Change, death: Death | None) -> None:
        """A device is disabled, enabled, re-keyed, removed or added again."""
        self._play(self.world.change(device, at, change, death))

    @rule(at=AT, death=DEATH)
    def deliver(self, at: int, death: Death | None) -> None:
        """An instance delivers a revocation, or dies while it does."""
        self._play(self.world.deliver(at, death))

    @rule()
    def release(self) -> None:
        """The cloud answers them."""
        self._play(self.world.release())

    @rule(at=AT)
    def crash(self, at: int) -> None:
        """An instance is killed, and another started."""
        self._play(self.world.crash(at))

    @rule(seconds=st.sampled_from([4, 31, 400, 1100]))
    def clock_on(self, seconds: int) -> None:
        """Time passes."""
        self._play(self.world.clock_on(seconds))

    @rule(event=st.sampled_from(["narrow", "wide", "refuse"]))
    def befall(self, event: Event) -> None:
        """Another policy is put in force, or the cloud will refuse a RevokeToken."""
        self._play(self.world.befall(event))

    @rule(which=WHICH, at=AT)
    def introspect(self, which: int, at: int) -> None:
        """A service asks what a token is."""
        self._play(self.world.introspect(which, at))

    def teardown(self) -> None:
        """All is delivered and judged, unless a promise was broken before."""
        try:
            if not self._broken:
                self._play(self.world.end())
        finally:
            self.stage.play(self.world.close())

    def _play(self, step: Coroutine[Any, Any, None]) -> None:
        self._broken = True
        self.stage.play(step)
        self._broken = False


@contextmanager
def stage(state: Path) -> Iterator[Stage]:
    """Set up a stage in an empty directory."""
    policies = state / "policies"
    policies.mkdir(parents=True)
    for name, text in POLICIES.items():
        (policies / name).write_text(text)
    secret = AccessKeySecret("test-access-key-secret")
    with running_valkey(state / "redis") as url, asyncio.Runner() as runner, driven_by_hand():
        with redis.Redis.from_url(url) as client:
            # No history kills Redis, and without a file it is quick.
            client.config_set("appendonly", "no")
        runner.get_loop().set_task_factory(own_tasks)
        config = SandboxConfig(
            host="127.0.0.1",
            port=0,
            mqtt_port=0,
            database=state / "sandbox.db",
            instance_id="mqtt-test",
            access_keys={"test-access-key": AccessKey(secret)},
        )
        sandbox = runner.run(start_sandbox(config))
        session = runner.run(_session())
        cloud = Cloud(f"http://127.0.0.1:{sandbox.port}", session)
        settings = Settings.load(
            {
                "ISSUER_URL": "https://tokens.example",
                "REDIS_URL": url,
                "POLICY_FILE": str(policies / "wide"),
                "SEALING_KEYS": new_key_text("k1").reveal(),
                "CLOUD_ENDPOINT": cloud.url,
                "CLOUD_INSTANCE_ID": config.instance_id,
                "ALIBABA_CLOUD_ACCESS_KEY_ID": "test-access-key",
                "ALIBABA_CLOUD_ACCESS_KEY_SECRET": secret.reveal(),
                "APPLY_TOKEN_QPS": "1000",
                "QUERY_TOKEN_QPS": "1000",
                "REVOKE_TOKEN_QPS": "1000",
                "EGRESS_QPS": "1000",
            }
        )
        try:
            yield Stage(runner, World(settings, cloud, policies))
        finally:
            runner.run(session.close())
            runner.run(sandbox.stop())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


def play(stage: Stage, histories: int, *, seed: int | None = None, shortest: bool = True) -> None:
    """Play so many histories. Raises ``Broken`` with the shortest that breaks a promise, or with the first."""
    phases = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shortest else [])]
    options = hypothesis.settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        phases=phases,
        derandomize=seed is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    machine = type("History", (History,), {"stage": stage})
    run_state_machine_as_test(machine if seed is None else hypothesis.seed(seed)(machine), settings=options)
