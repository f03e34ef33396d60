"""The progress of a bulk revoke: a bar in a terminal, lines elsewhere, one JSON object for machines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cli.output import print_fields
from app.cli.setup import run_with_services
from app.cli.times import shown_span, shown_time
from app.errors import Refusal
from app.model.selections import SelectionKind

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.store.jobs import Job

LOOK_EVERY_S: Final = 0.5
LINE_EVERY_S: Final = 2.0
STALLED_S: Final = 10.0
"""When nothing has changed for so long, a hint says what may be missing."""

REDIS_WITHIN_S: Final = 30.0
"""How long Redis may be unreachable before the watch ends."""

_ShowProgress = Callable[["Job", float], None]
"""Shows a job, and the seconds until the queue of revocations is empty."""


def follow_job(state: Path | None, job_id: str, *, as_json: bool) -> None:
    """Show a job until it is settled. Raises ``NotFound``, and ``Refusal`` if the cloud refused some revocations."""
    try:
        settled = run_with_services(state, lambda services: _follow(services, job_id, as_json=as_json))
    except KeyboardInterrupt:
        print(f"the job goes on; to follow it again: jobs show {job_id} --follow", file=sys.stderr)
        raise
    print_job(settled, as_json=as_json)
    if settled.failed:
        raise Refusal(f"the cloud refused {settled.failed} revocations: tokens queue --which failed lists them")


def print_job(job: Job, *, as_json: bool) -> None:
    """Print a job as it is now."""
    if as_json:
        print(json.dumps(job_record(job)))
        return
    by_topic = job.selection.kind is SelectionKind.TOPIC
    print_fields(
        {
            "job": job.id,
            "revokes": str(job.selection),
            "started by": job.by,
            "started": shown_time(job.created_at_ms),
            "all queued": shown_time(job.done_at_ms) or "not yet",
            "not handed out": f"in {job.shards_done} of {job.shards} parts of the store" if by_topic else "any more",
            "tokens": job_figures(job),
        }
    )


def job_record(job: Job) -> dict[str, Any]:
    """Return a job in the form of ``/api/jobs``."""
    import msgspec  # noqa: PLC0415

    from app.web.api_revocations import JobView  # noqa: PLC0415 - the API's form, without its web server for people

    view: dict[str, Any] = msgspec.to_builtins(JobView.of(job))
    return view


def job_figures(job: Job) -> str:
    """Return the numbers of a job's tokens as one line."""
    counted = f" of {job.counted:,} counted" if job.counted and not job.done_at_ms else ""
    dropped = f", dropped {job.dropped:,}" if job.dropped else ""
    return (
        f"queued {job.queued:,}{counted}, confirmed {job.confirmed:,}, failed {job.failed:,}, "
        f"lapsed {job.lapsed:,}{dropped}, waiting {max(0, job.waiting):,}"
    )


async def _follow(services: AdminServices, job_id: str, *, as_json: bool) -> Job:
    if as_json:
        return await _watch(services, job_id, lambda *_: None)
    if not sys.stdout.isatty():
        return await _watch(services, job_id, LineProgress().show_progress)
    with _bar() as show_progress:
        return await _watch(services, job_id, show_progress)


async def _watch(services: AdminServices, job_id: str, show_progress: _ShowProgress) -> Job:
    """Show the job again and again until it is settled, and return it."""
    from app.store.retry import retry_until  # noqa: PLC0415 - `--help` stays quick

    stall = _StallDetector()
    while True:
        job = await retry_until(partial(services.jobs.get_job, job_id), within_s=REDIS_WITHIN_S)
        overview = await retry_until(services.revocations.queue_overview, within_s=REDIS_WITHIN_S)
        show_progress(job, overview.est_empty_s)
        if job.settled:
            return job
        if stall.is_stalled(job):
            print(stall_hint(job), file=sys.stderr, flush=True)
        await asyncio.sleep(LOOK_EVERY_S)


class _StallDetector:
    """Notices that a job has not changed for ``STALLED_S`` seconds."""

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()
        self._since = time.monotonic()

    def is_stalled(self, job: Job) -> bool:
        """Return whether the job has not changed for so long; true once for each such time."""
        now = time.monotonic()
        seen = (job.shards_done, job.queued, job.waiting)
        stalled = seen == self._last and now - self._since > STALLED_S
        if stalled or seen != self._last:
            self._last, self._since = seen, now
        return stalled


class LineProgress:
    """Prints a line when the job has changed, but not more often than every ``LINE_EVERY_S`` seconds."""

    def __init__(self) -> None:
        self._last_line = ""
        self._printed_at = 0.0

    def show_progress(self, job: Job, est_empty_s: float) -> None:
        """Print the figures if they have changed."""
        line, now = _progress_line(job, est_empty_s), time.monotonic()
        if line != self._last_line and now - self._printed_at >= LINE_EVERY_S:
            print(line, flush=True)
            self._last_line, self._printed_at = line, now


@contextlib.contextmanager
def _bar() -> Iterator[_ShowProgress]:
    """Yield a function that moves a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - only in a terminal

    with Progress(BarColumn(bar_width=12), TextColumn("{task.fields[line]}", markup=False)) as progress:
        task = progress.add_task("", total=1, line="")

        def move_bar(job: Job, est_empty_s: float) -> None:
            """Move the bar. It is full only when the job is settled."""
            total = max(1, job.queued, 0 if job.done_at_ms else job.counted)
            completed = total if job.settled else job.queued - job.waiting
            progress.update(task, total=total, completed=completed, line=_progress_line(job, est_empty_s))

        yield move_bar


def _progress_line(job: Job, est_empty_s: float) -> str:
    counts = {"queued": job.queued, "confirmed": job.confirmed, "failed": job.failed, "lapsed": job.lapsed}
    left = f"about {shown_span(est_empty_s)}" if job.done_at_ms else "more to queue"
    return f"{' '.join(f'{name} {count:,}' for name, count in counts.items())}, {left}"


def stall_hint(job: Job) -> str:
    """Say what may be missing for a job that does not change."""
    unchanged = f"nothing has changed for {STALLED_S:g} s: "
    if not job.done_at_ms:
        return f"{unchanged}probably no instance is running; the job waits in Redis until one is"
    return f"{unchanged}check that an instance is running and reaches the cloud; the queue waits in Redis until then"
