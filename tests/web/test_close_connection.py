"""``CLOSE_CONNECTION_ON_REVOKE``."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.settings import Settings
from app.web.route import SERVICES
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import OwnCloud


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The settings of the server, with that one on."""
    return settings.model_copy(update={"close_connection_on_revoke": True})


@pytest.mark.parametrize("result", ["OK", "ApiNotSupport"])
async def test_a_confirmed_revoke_closes_the_connection(
    caller: Caller, server: TestClient[Any, Any], cloud: OwnCloud, result: str
) -> None:
    """The device is cut off, once, after the cloud confirmed; where that fails, the revoke stays confirmed."""
    if result != "OK":
        await cloud.fault("CloseConnection", "error", code=result, times=None)
    token = (await caller.token()).body
    assert (await caller.revoke(token["handle"])).status == 200

    async def called() -> bool:
        return await cloud.calls("CloseConnection") == {result: 1}

    await until(called, "the call that cuts it off")
    record = await server.app[SERVICES].stores.tokens.read_token(token["handle"])
    assert record is not None
    assert record.revocation == "confirmed"
