"""A large revoke's progress: a bar in a terminal, lines elsewhere, one JSON object for machines."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cli.setup import open_admin_services, settings
from app.cli.times import shown_span, shown_time
from app.errors import Refusal
from app.model.selections import SelectionKind

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.store.jobs import Job

LOOK_EVERY_S: Final = 0.5
LINE_EVERY_S: Final = 2.0
STALLED_S: Final = 10.0
"""When nothing has moved for so long, it is said what may be missing."""

REDIS_WITHIN_S: Final = 30.0
"""For so long Redis may be away without ending the watch."""


def follow_job(state: Path | None, job: str, *, as_json: bool) -> None:
    """Show a job until nothing more will happen by itself. Raises ``NotFound``, and ``Refusal`` if some failed."""
    try:
        done = asyncio.run(_follow(state, job, as_json=as_json))
    except KeyboardInterrupt:
        print(f"it goes on without this; to look again: jobs show {job} --follow", file=sys.stderr)
        raise
    print_job(done, as_json=as_json)
    if done.failed:
        raise Refusal(f"the cloud refused {done.failed}: tokens queue --which failed shows them")


def print_job(job: Job, *, as_json: bool) -> None:
    """Print a job as it is now."""
    if as_json:
        print(json.dumps(as_record(job)))
        return
    by_topic = job.selection.kind is SelectionKind.TOPIC
    denied = f"{job.shards_done} of {job.shards} parts of the store" if by_topic else "all, since it began"
    for name, value in {
        "job": job.id,
        "revokes": str(job.selection),
        "by": job.by,
        "begun": shown_time(job.created_at_ms),
        "all queued": shown_time(job.done_at_ms) if job.done_at_ms else "not yet",
        "denied": denied,
        "tokens": figures(job),
    }.items():
        print(f"{name:<10} {value}")


def as_record(job: Job) -> dict[str, Any]:
    """Return a job as ``/api/jobs`` shows it."""
    import msgspec  # noqa: PLC0415

    from app.web.api_revocations import JobView  # noqa: PLC0415 - one form for both, and no web server for people

    shown: dict[str, Any] = msgspec.to_builtins(JobView.of(job))
    return shown


def figures(job: Job) -> str:
    """Say in one line what became of the tokens."""
    counted = f" of {job.counted:,} counted" if job.counted and not job.done_at_ms else ""
    dropped = f", dropped {job.dropped:,}" if job.dropped else ""
    return (
        f"queued {job.queued:,}{counted}, confirmed {job.confirmed:,}, failed {job.failed:,}, "
        f"lapsed {job.lapsed:,}{dropped}, waiting {max(0, job.waiting):,}"
    )


async def _follow(state: Path | None, job: str, *, as_json: bool) -> Job:
    async with open_admin_services(settings(state)) as office:
        if as_json:
            return await _watch(office, job, lambda *_: None)
        if not sys.stdout.isatty():
            return await _watch(office, job, _Lines().show)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - a bar is for people alone

        with Progress(BarColumn(bar_width=12), TextColumn("{task.fields[said]}", markup=False)) as progress:
            task = progress.add_task("", total=1, said="")

            def move(now: Job, est_empty_s: float) -> None:
                """Move the bar: to its end only when nothing more will happen."""
                total = max(1, now.queued, 0 if now.done_at_ms else now.counted)
                settled = total if now.settled else now.queued - now.waiting
                progress.update(task, total=total, completed=settled, said=_said(now, est_empty_s))

            return await _watch(office, job, move)


async def _watch(office: AdminServices, job: str, show: Callable[[Job, float], None]) -> Job:
    """Call ``show`` with the job, and the seconds until the whole queue is empty, until the job is settled."""
    from app.store.retry import retry_until  # noqa: PLC0415 - `--help` stays quick

    loop = asyncio.get_running_loop()
    before: tuple[int, ...] = ()
    moved_at = loop.time()
    while True:
        now = await retry_until(partial(office.jobs.get_job, job), within_s=REDIS_WITHIN_S)
        overview = await retry_until(office.revocations.queue_overview, within_s=REDIS_WITHIN_S)
        show(now, overview.est_empty_s)
        if now.settled:
            return now
        place = (now.shards_done, now.queued, now.waiting)
        if place != before:
            before, moved_at = place, loop.time()
        elif loop.time() - moved_at > STALLED_S:
            print(_stalled(now), file=sys.stderr, flush=True)
            moved_at = loop.time()
        await asyncio.sleep(LOOK_EVERY_S)


class _Lines:
    """A line when something has changed, and not too many."""

    def __init__(self) -> None:
        self._last = ""
        self._said_at = 0.0

    def show(self, job: Job, est_empty_s: float) -> None:
        """Print the figures if they are others."""
        line, now = _said(job, est_empty_s), time.monotonic()
        if line != self._last and now - self._said_at >= LINE_EVERY_S:
            print(line, flush=True)
            self._last, self._said_at = line, now


def _said(job: Job, est_empty_s: float) -> str:
    counts = {"queued": job.queued, "confirmed": job.confirmed, "failed": job.failed, "lapsed": job.lapsed}
    left = f"about {shown_span(est_empty_s)}" if job.done_at_ms else "more to queue"
    return f"{' '.join(f'{name} {count:,}' for name, count in counts.items())}, {left}"


def _stalled(job: Job) -> str:
    done = f"nothing has moved for {STALLED_S:g} s: "
    if not job.done_at_ms:
        return f"{done}no instance seems to be running; the job waits in Redis until one is"
    return f"{done}is an instance running, and does it reach the cloud? The queue waits in Redis until then"
