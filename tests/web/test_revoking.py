"""A bulk revocation as the devices see it, at another instance than the one that was asked."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.actors import Actor
from app.model.selections import Selection, SelectionKind
from app.store.jobs import Job
from app.web.route import SERVICES
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import ISSUER, MakeCaller, OwnCloud


@pytest.mark.parametrize(
    "selection", [Selection.of_role("sensor"), Selection.of_topic("plant/#"), Selection.of_everything()]
)
async def test_a_large_revoke_is_gone_everywhere_and_at_the_cloud(
    make_caller: MakeCaller,
    server: TestClient[Any, Any],
    other_server: TestClient[Any, Any],
    cloud: OwnCloud,
    selection: Selection,
) -> None:
    """Once it is answered (a topic: once its job is through) no instance hands out or calls active what it took."""
    callers = [await make_caller(f"GID_plant@@@d{number}") for number in range(4)]
    others = [Caller(other_server, ISSUER, caller.client_id, caller.key) for caller in callers]
    old = [(await caller.token()).body for caller in callers]
    job = await server.app[SERVICES].revocations.revoke_selection(selection, actor=Actor("operator:o"))
    assert isinstance(job, Job)

    async def through() -> bool:
        settled: bool = (await other_server.app[SERVICES].jobs.get_job(job.id)).settled
        return settled

    if selection == Selection.of_topic("plant/#"):
        await until(through, "the job through")
    for caller, token in zip(others, old, strict=True):
        assert (await caller.introspect(token["access_token"])).body == {"active": False}
        renewed = (await caller.token()).body
        assert renewed["access_token"] != token["access_token"]
        assert (await caller.introspect(renewed["access_token"])).body["active"] is True
    await until(through, "the job confirmed to the end")
    job = await server.app[SERVICES].jobs.get_job(job.id)
    assert (job.counted, job.queued, job.confirmed) == (0 if selection.kind is SelectionKind.TOPIC else 4, 4, 4)
    assert sorted(each["revoked"] for each in await cloud.tokens()) == [False] * 8 + [True] * 8
