"""Requests of operators and their programs, within their share of the loop: token requests go on beside them."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.errors import Unavailable
from app.loop_share import LoopShare
from app.model.text import _
from app.web.route import Answer

MAX_REQUESTS: Final = 256
"""Requests in one share that are worked on or wait. One takes about 50 kB."""

RETRY_AFTER_S: Final = 5


async def run_within(share: LoopShare, answer: Answer) -> web.StreamResponse:
    """Answer a request within a share. Raises ``Unavailable`` at once if too many wait, and as ``answer``."""
    if share.in_progress >= MAX_REQUESTS:
        raise Unavailable(
            _("this instance has too many requests of this kind at the moment: try again later"),
            cause=f"{share.in_progress} in progress",
            retry_after_s=RETRY_AFTER_S,
        )
    return await share.run(answer)
