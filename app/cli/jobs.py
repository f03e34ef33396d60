"""``jobs``: bulk revokes and their progress."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.job_progress import follow_job, job_figures, job_record, print_job
from app.cli.output import print_more_exist
from app.cli.setup import JsonOption, StateOption, run_with_services
from app.cli.times import shown_time

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.store.jobs import Job

_MAX_LIMIT: Final = 10_000
_PAGE: Final = 100

app = typer.Typer(no_args_is_help=True, help="Bulk revokes of the last month.")

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="As `tokens revoke` and `jobs list` show it.")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=_MAX_LIMIT, metavar="N", help="How many to show at most.")] = 20,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs, the newest first."""
    jobs, more = run_with_services(state, lambda services: _read_jobs(services, limit))
    if as_json:
        print(json.dumps([job_record(job) for job in jobs]))
    else:
        for job in jobs:
            print(f"{job.id}  {shown_time(job.created_at_ms)}  {job.by}  {job.selection}  {job_figures(job)}")
    print_more_exist(limit, more=more)


@app.command("show")
def show_job(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Show it until all its revocations are settled.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job and its progress."""
    if follow:
        follow_job(state, job_id, as_json=as_json)
    else:
        print_job(run_with_services(state, lambda services: services.jobs.get_job(job_id)), as_json=as_json)


async def _read_jobs(services: AdminServices, limit: int) -> tuple[list[Job], bool]:
    """Read pages until there are ``limit`` jobs; return the jobs, and whether there may be more."""
    jobs: list[Job] = []
    cursor = ""
    while len(jobs) < limit:
        page = await services.jobs.list_jobs(cursor, min(_PAGE, limit - len(jobs)))
        jobs += page.jobs
        cursor = page.next_cursor
        if not cursor:
            return jobs, False
    return jobs, True
