"""``tokens`` and ``jobs``."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from app.cli import job_progress
from app.model.secrets import Secret
from app.service import jobs as service_jobs
from app.service.jobs import Jobs
from app.store.devices import Devices
from app.store.index import TokenIndex
from app.store.jobs import Job, JobStore
from app.store.records import TokenRecord
from app.store.retry import retry_until
from app.store.revocations import Outcome, RevocationQueue
from app.store.sealing import SealingKeys
from app.store.store import Store
from app.store.tokens import Tokens
from tests.cli.conftest import Cli
from tests.store.fleet import Fleet
from tests.waiting import connect_all

D0 = "GID_plant@@@d0"
UNKNOWN = "07-" + "a" * 22

Issue = Callable[..., list[TokenRecord]]


@pytest.fixture
def issue(settings: dict[str, str]) -> Issue:
    """A function that gives devices d0, d1 and so on a live token each."""

    async def issue_all(count: int, role: str) -> list[TokenRecord]:
        store, keys = Store(Secret(settings["REDIS_URL"])), SealingKeys.parse(Secret(settings["SEALING_KEYS"]))
        await connect_all(store)
        fleet = Fleet(store, Devices(store, keys), Tokens(store, keys, max_live=3, max_new_per_hour=5))
        records = await fleet.issue_many(count, role=role, prefix="d")
        await store.close()
        return records

    return lambda count=1, role="sensor": asyncio.run(issue_all(count, role))


class Instance(threading.Thread):
    """The part of an instance that works on jobs and settles queued revocations."""

    def __init__(self, settings: dict[str, str], outcome: Outcome) -> None:
        super().__init__()
        self._settings = settings
        self._outcome: Outcome = outcome
        self._over = threading.Event()

    def run(self) -> None:
        """Work until stopped."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Stop, and wait for the end."""
        self._over.set()
        self.join()

    async def _run(self) -> None:
        store, keys = (
            Store(Secret(self._settings["REDIS_URL"])),
            SealingKeys.parse(Secret(self._settings["SEALING_KEYS"])),
        )
        await connect_all(store)
        tokens, queue = Tokens(store, keys, max_live=3, max_new_per_hour=5), RevocationQueue(store)
        working = asyncio.create_task(Jobs(JobStore(store), TokenIndex(store, tokens), queue).work_on_jobs())
        while not self._over.is_set():
            # As a real instance does: on a slow disk Redis may answer late, and the next try settles the rest.
            await retry_until(partial(self._settle_queued, queue), within_s=30)
            await asyncio.sleep(0.005)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        await store.close()

    async def _settle_queued(self, queue: RevocationQueue) -> None:
        for shard in await queue.next_shards():
            if claim := await queue.claim_revocation(shard):
                await queue.record_delivery(claim, self._outcome)


@pytest.fixture
def instance(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Outcome], Instance]]:
    """A function that starts an instance."""
    monkeypatch.setattr(service_jobs, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(service_jobs, "MIN_PAUSE_S", 0)
    monkeypatch.setattr(job_progress, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(job_progress, "LINE_EVERY_S", 0)
    started: list[Instance] = []

    def start(outcome: Outcome = "confirmed") -> Instance:
        started.append(Instance(settings, outcome))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that types something on standard input."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_live_tokens_are_listed_and_shown(cli: Cli, state: str, issue: Issue) -> None:
    """By device, role, topic or all, in words with whole handles and in JSON; never with a token in it."""
    records = issue(3)
    listed = json.loads(cli("tokens", "list", "--state", state, "--json").out)
    assert {each["handle"] for each in listed} == {record.handle for record in records}
    assert {"handle", "client_id", "role", "scope", "state", "issued_at_ms", "expires_at_ms", "revocation"} == set(
        listed[0]
    )
    for options, count in (
        (["--role", "sensor"], 3),
        (["--role", "press"], 0),
        (["--client-id", D0], 1),
        (["--topic", "pub:plant/+/up"], 3),
        (["--topic", "sub:plant/#"], 0),
        (["--topic", "plant/d1/#"], 1),
        (["--limit", "2"], 2),
    ):
        assert len(cli("tokens", "list", *options, "--state", state).out.splitlines()) == count, options
    handle = records[0].handle
    shown = cli("tokens", "show", handle, "--state", state).out
    assert handle in shown
    assert "live" in shown
    assert json.loads(cli("tokens", "show", handle, "--state", state, "--json").out)["handle"] == handle
    assert "cloud-token" not in shown + str(listed)


def test_a_list_that_is_cut_short_says_so(cli: Cli, state: str, issue: Issue) -> None:
    """For machines too, beside their JSON: otherwise they would take a part for the whole."""
    for record in issue(6)[:3]:
        cli("tokens", "revoke", record.handle, "--yes", "--state", state)
    for _ in range(3):
        cli("tokens", "revoke", "--role", "press", "--yes", "--no-wait", "--state", state)
    for words in (["tokens", "list"], ["tokens", "queue"], ["jobs", "list"]):
        for as_json in ([], ["--json"]):
            assert "and more" in cli(*words, "--limit", "2", "--state", state, *as_json).err, words
            assert cli(*words, "--limit", "3", "--state", state, *as_json).err in {
                "",
                "and more: --limit 3 was reached\n",
            }
            assert cli(*words, "--limit", "4", "--state", state, *as_json).err == "", words


def test_a_token_is_revoked_once_and_after_that_is_said_to_be(cli: Cli, state: str, issue: Issue) -> None:
    """The effect is shown first; a second time exits 0, changes nothing and is not in the audit."""
    [record] = issue()
    first = cli("tokens", "revoke", record.handle, "--yes", "--state", state)
    assert first.code == 0
    assert record.client_id in first.out
    assert f"devices disable {record.client_id}" in first.out
    assert f"{record.handle} is revoked; still valid at the broker until the cloud confirms" in first.out
    again = cli("tokens", "revoke", record.handle, "--state", state)
    assert (again.code, again.err) == (0, "")
    assert "was revoked before; revoked: still valid at the broker" in again.out
    answer = json.loads(cli("tokens", "revoke", record.handle, "--state", state, "--json").out)
    assert answer == {"client_id": record.client_id, "handle": record.handle, "revoked": 0}
    lines = json.loads(cli("audit", "--what", "revoked", "--state", state, "--json").out)
    assert [line["handle"] for line in lines] == [record.handle]
    assert "queued, empty in about" in cli("tokens", "queue", "--state", state).out
    queued = json.loads(cli("tokens", "queue", "--state", state, "--json").out)
    assert (queued["overview"]["queued"], [each["handle"] for each in queued["items"]]) == (1, [record.handle])


def test_what_a_device_holds_is_revoked(cli: Cli, state: str, issue: Issue) -> None:
    """The device stays enabled, and the output says how to disable it."""
    [record] = issue()
    answer = cli("tokens", "revoke", "--client-id", record.client_id, "--yes", "--state", state)
    assert answer.code == 0
    assert f"This revokes 1 token of {D0}" in answer.out
    assert f"{D0}: 1 token revoked" in answer.out
    assert json.loads(cli("devices", "show", D0, "--state", state, "--json").out)["disabled"] is False
    assert "This revokes 0 tokens" in cli("tokens", "revoke", "--client-id", D0, "--yes", "--state", state).out


@pytest.mark.parametrize(
    ("selection", "typed", "code"),
    [
        (["--role", "sensor"], "y\n", 0),
        (["--role", "sensor"], "YES\n", 0),
        (["--role", "sensor"], "\n", 1),
        (["--role", "sensor"], "n\n", 1),
        (["--role", "sensor"], "", 1),
        (["--all"], "everything\n", 0),
        (["--all"], "y\n", 1),
        (["--all"], "", 1),
        ([D0], "y\n", 1),
    ],
)
def test_nothing_is_revoked_before_it_is_confirmed(
    cli: Cli, state: str, issue: Issue, type_in: Callable[[str], None], selection: list[str], typed: str, code: int
) -> None:
    """``y`` or ``yes`` confirms, for all tokens only the word; any other answer, or none, is a no."""
    issue(2)
    type_in(typed)
    answer = cli("tokens", "revoke", *selection, "--no-wait", "--state", state)
    assert answer.code == code, answer
    live = json.loads(cli("tokens", "list", "--state", state, "--json").out)
    assert len(live) == (2 if code else 0)
    if selection[0] != D0:
        assert "2 tokens" in answer.out
        assert "devices disable" in answer.out
    if code:
        assert json.loads(cli("jobs", "list", "--state", state, "--json").out) == []


WRONG: list[list[str]] = [
    [],
    ["--role", ""],
    ["--role", "*"],
    ["--role", "x" * 10_000],
    ["--client-id", "plant"],
    ["--client-id", "GID_plant@@@nobody"],
    ["--topic", ""],
    ["--topic", "#"],
    ["--topic", "a/#/b"],
    ["--topic", "x" * 10_000],
    ["--role", "sensor", "--topic", "plant/#"],
    ["--role", "sensor", "--all"],
    [UNKNOWN],
    [UNKNOWN, "--all"],
    ["R|cloud-token"],
    [""],
    [D0],
]


def test_what_selects_nothing_is_one_line_and_revokes_nothing(cli: Cli, state: str, issue: Issue) -> None:
    """Whatever was wrong; the input is not repeated where it may be a token."""
    issue()
    for selection in WRONG:
        answer = cli("tokens", "revoke", *selection, "--yes", "--state", state)
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1), (selection, answer)
        assert len(answer.err) < 300
        assert "cloud-token" not in answer.err
    assert len(json.loads(cli("tokens", "list", "--state", state, "--json").out)) == 1
    assert json.loads(cli("jobs", "list", "--state", state, "--json").out) == []


@pytest.mark.parametrize("selection", [["--role", "sensor"], ["--topic", "plant/#"], ["--all"]])
def test_a_job_is_followed_to_its_end(
    cli: Cli, state: str, issue: Issue, instance: Callable[[], Instance], selection: list[str]
) -> None:
    """Without a terminal in plain lines: the count, the start, the progress and the result."""
    issue(5)
    instance()
    answer = cli("tokens", "revoke", *selection, "--yes", "--state", state)
    assert (answer.code, answer.err) == (0, "")
    assert "This revokes 5 tokens" in answer.out
    assert "\x1b" not in answer.out
    assert "queued 5, confirmed 5, failed 0, lapsed 0, waiting 0" in answer.out.splitlines()[-1]
    [job] = json.loads(cli("jobs", "list", "--state", state, "--json").out)
    assert f"job {job['id']}; Ctrl-C leaves it running" in answer.out
    assert (job["counted"], job["confirmed"], job["settled"]) == (5, 5, True)
    assert job["id"] in cli("jobs", "list", "--state", state).out
    assert job["id"] in cli("jobs", "show", job["id"], "--state", state).out


def test_a_person_sees_a_bar(
    cli: Cli, state: str, issue: Issue, instance: Callable[[], Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal of 80 columns it fits with all figures; a large fleet's do, too."""
    issue(3)
    instance()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    answer = cli("tokens", "revoke", "--role", "sensor", "--yes", "--state", state)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", answer.out)
    assert answer.code == 0
    assert "━━━ queued 3 confirmed 3 failed 0 lapsed 0, about 0 s" in plain


def test_machines_read_one_document(cli: Cli, state: str, issue: Issue, instance: Callable[[], Instance]) -> None:
    """``--json`` prints the job as it ended on standard output, and what people read on standard error."""
    issue(2)
    instance()
    answer = cli("tokens", "revoke", "--role", "sensor", "--yes", "--state", state, "--json")
    job = json.loads(answer.out)
    assert (answer.code, job["selection"], job["confirmed"]) == (0, {"role": "sensor"}, 2)
    assert "This revokes 2 tokens" in answer.err
    assert json.loads(cli("jobs", "show", job["id"], "--follow", "--state", state, "--json").out) == job


def test_what_the_cloud_refuses_is_reported_and_retried_or_dropped(
    cli: Cli, state: str, issue: Issue, instance: Callable[[Outcome], Instance]
) -> None:
    """The exit code shows failures; a retry queues again, a drop gives up; anything else is refused."""
    retried, dropped = (record.handle for record in issue(2))
    refusing = instance("failed")
    answer = cli("tokens", "revoke", "--role", "sensor", "--yes", "--state", state)
    refusing.stop()
    assert (answer.code, answer.err) == (
        1,
        "error: the cloud refused 2 revocations: tokens queue --which failed lists them\n",
    )
    assert retried in cli("tokens", "queue", "--which", "failed", "--state", state).out
    assert "still valid at the broker" in cli("tokens", "retry", retried, "--state", state).out
    assert json.loads(cli("tokens", "drop", dropped, "--state", state, "--json").out)["revocation"] == "dropped"
    for verb in ("retry", "drop"):
        for handle in (retried, dropped, UNKNOWN, "x", ""):
            assert cli("tokens", verb, handle, "--state", state).code == 1
    whats = [line["what"] for line in json.loads(cli("audit", "--state", state, "--json").out)]
    assert whats[:2] == ["dropped", "retried"]


def test_ctrl_c_leaves_a_job_running_and_says_how_to_follow_it(
    cli: Cli, state: str, issue: Issue, instance: Callable[[], Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the watch, not the job: exit code 130, and the verb to follow it again."""
    issue(2)
    with monkeypatch.context() as patch:
        patch.setattr(job_progress.LineProgress, "show_progress", lambda *_: signal.raise_signal(signal.SIGINT))
        answer = cli("tokens", "revoke", "--role", "sensor", "--yes", "--state", state)
    assert answer.code == 130
    verb = re.search(r"jobs show [0-9a-f]{16} --follow", answer.err)
    assert verb
    instance()
    assert cli(*verb[0].split(), "--state", state).code == 0


def test_a_job_without_an_instance_says_so(
    cli: Cli, state: str, issue: Issue, instance: Callable[[], Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line needs only Redis: without an instance the job waits, and the output says so."""
    issue(2)
    started = json.loads(cli("tokens", "revoke", "--all", "--yes", "--no-wait", "--state", state, "--json").out)
    assert (started["done_at_ms"], started["shards_done"], started["settled"]) == (0, 0, False)
    stall_hint = job_progress.stall_hint
    monkeypatch.setattr(job_progress, "STALLED_S", 0.05)
    monkeypatch.setattr(job_progress, "LOOK_EVERY_S", 0.02)

    def start_and_hint(job: Job) -> str:
        instance()
        monkeypatch.setattr(job_progress, "STALLED_S", 60)
        return stall_hint(job)

    monkeypatch.setattr(job_progress, "stall_hint", start_and_hint)
    answer = cli("jobs", "show", started["id"], "--follow", "--state", state)
    assert answer.code == 0
    assert "probably no instance is running" in answer.err


@pytest.mark.parametrize("verb", [["jobs", "show", "0" * 16], ["jobs", "show", "*"], ["tokens", "show", UNKNOWN]])
def test_what_is_not_there_is_one_line(cli: Cli, state: str, verb: list[str]) -> None:
    """Unknown jobs and tokens, also to be followed."""
    for options in ([], ["--follow"] if verb[0] == "jobs" else ["--json"]):
        answer = cli(*verb, *options, "--state", state)
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1)
