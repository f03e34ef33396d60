from __future__ import annotations

import asyncio

import pytest

from app.errors import Unavailable
from app.store.retry import retry_until


async def test_trying_again_ends() -> None:
    """A step that Redis refuses is repeated only for as long as was said."""
    tries = 0

    async def refuse() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("no")

    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await retry_until(refuse, within_s=0.1)
    assert tries > 1
    assert asyncio.get_running_loop().time() - started < 0.5
