from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.secrets import CloudToken
from app.service import confirm
from app.settings import Settings
from app.upstream import open_cloud_alone
from tests.callers import Caller
from tests.web.conftest import ISSUER, MakeCaller, OwnCloud


async def asked(cloud: OwnCloud) -> int:
    """Return how often the cloud was asked about a token."""
    return sum((await cloud.calls("QueryToken")).values())


async def test_an_answer_of_the_cloud_is_used_for_a_few_seconds(
    caller: Caller, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many questions about one token cost one call for each cloud token, until the answer is old."""
    token = (await caller.token()).body
    answers = await asyncio.gather(*(caller.introspect(token["handle"]) for _ in range(10)))
    answers.append(await caller.introspect(token["access_token"]))
    assert {(answer.body["active"], answer.body["cloud_checked"]) for answer in answers} == {(True, True)}
    assert await asked(cloud) == len(token["mqtt"]["tokens"])
    monkeypatch.setattr(confirm, "GOOD_FOR_S", 0.0)
    await caller.revoke(token["handle"])
    renewed = (await caller.token()).body
    for _ in range(2):
        await caller.introspect(renewed["handle"])
    assert await asked(cloud) == 3 * len(token["mqtt"]["tokens"])


async def test_an_answer_that_is_used_again_hides_no_revoke(
    caller: Caller, other_server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """Whatever the cloud said a moment ago: what is revoked here, at whichever instance, is inactive at once."""
    token = (await caller.token()).body
    assert (await caller.introspect(token["handle"])).body["active"] is True
    await Caller(other_server, ISSUER, caller.client_id, caller.key).revoke(token["handle"])
    for held in (token["handle"], token["access_token"]):
        assert (await caller.introspect(held)).body == {"active": False}


async def test_a_revoke_that_overtakes_the_question_wins(caller: Caller, cloud: OwnCloud) -> None:
    """The cloud still says yes, and the answer is no."""
    token = (await caller.token()).body
    await cloud.fault("QueryToken", "hold", times=1)
    question = asyncio.create_task(caller.introspect(token["handle"]))
    await cloud.until_held(1)
    await cloud.fault("RevokeToken", "hang", times=None)
    await caller.revoke(token["handle"])
    await cloud.release("QueryToken")
    assert (await question).body == {"active": False}
    await cloud.clear()


async def test_a_token_revoked_at_the_cloud_alone_is_inactive(caller: Caller, settings: Settings) -> None:
    """A token that was revoked at the cloud by other means is inactive, though it is live here."""
    token = (await caller.token()).body
    async with open_cloud_alone(settings) as console:
        deadline = asyncio.get_running_loop().time() + 5
        await console.revoke_token(CloudToken(token["mqtt"]["tokens"][0]["token"]), deadline=deadline)
    assert (await caller.introspect(token["handle"])).body == {"active": False}


async def test_a_cloud_that_does_not_answer_is_waited_for_once(
    caller: Caller, make_caller: MakeCaller, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are answered at once with what is known here, and that it was not confirmed."""
    monkeypatch.setattr(confirm, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(confirm, "LEAVE_ALONE_S", 20.0)
    other = await make_caller("GID_plant@@@d2")
    one, two = (await caller.token()).body, (await other.token()).body
    await cloud.fault("QueryToken", "hang", times=None)
    answers = [await caller.introspect(one["handle"])]
    calls = await asked(cloud)
    answers += await asyncio.gather(
        *(each.introspect(token["handle"]) for each, token in ((caller, one), (other, two)))
    )
    assert {(answer.body["active"], answer.body["cloud_checked"]) for answer in answers} == {(True, False)}
    assert await asked(cloud) == calls
    await cloud.clear()


async def test_a_bounded_number_of_answers_is_kept(
    caller: Caller, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens are asked about, memory is bounded: the oldest answer is dropped."""
    monkeypatch.setattr(confirm, "MAX_ANSWERS", 1)
    one, two = [(await caller.token(scope=scope)).body for scope in ("pub:plant/d1/up/a", "pub:plant/d1/up/b")]
    for token in (one, two, two, one):
        assert (await caller.introspect(token["handle"])).body["cloud_checked"] is True
    assert await asked(cloud) == 3
