"""``jobs``: large revokes and how far they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.job_progress import as_record, figures, follow_job, print_job
from app.cli.setup import JsonOption, StateOption
from app.cli.times import shown_time
from app.cli.tokens import do, tell_of_more

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.store.jobs import Job

_MOST: Final = 10_000
_PAGE: Final = 100

app = typer.Typer(no_args_is_help=True, help="Large revokes of the last month.")

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="As `tokens revoke` and `jobs list` name it.")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Most to show.")] = 20,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List them, the newest first."""

    async def find(office: AdminServices) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        cursor = ""
        while len(jobs) < limit:
            page = await office.jobs.list_jobs(cursor, min(_PAGE, limit - len(jobs)))
            jobs += page.jobs
            cursor = page.next_cursor
            if not cursor:
                return jobs, False
        return jobs, True

    jobs, more = do(state, find)
    if as_json:
        print(json.dumps([as_record(job) for job in jobs]))
    else:
        for job in jobs:
            print(f"{job.id}  {shown_time(job.created_at_ms)}  {job.by}  {job.selection}  {figures(job)}")
    tell_of_more(limit, more=more)


@app.command()
def show(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Until nothing more will happen by itself.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far one is."""
    if follow:
        follow_job(state, job, as_json=as_json)
    else:
        print_job(do(state, lambda office: office.jobs.get_job(job)), as_json=as_json)
