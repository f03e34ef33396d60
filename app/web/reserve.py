"""What is served when there are too many connections: health checks and the console; all else is refused."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from app.errors import Refusal, TooManyRequests, Unavailable
from app.model.text import _
from app.web.connections import Admission
from app.web.console.results import PREFIX
from app.web.middleware import REFUSED_EARLY

_HEALTH: Final = frozenset({"/healthz", "/readyz"})
_RETRY_WITHIN_S: Final = 10


async def answer_in_reserve(
    handler: Callable[[Any], Awaitable[web.StreamResponse]], admission: Admission, request: web.Request
) -> web.StreamResponse:
    """Answer a request on a connection of the reserve, which ends with it."""
    if not _is_for_operators(request.path):
        request[REFUSED_EARLY] = refusal_when_full(admission)
    response = await handler(request)
    response.force_close()
    return response


def refusal_when_full(admission: Admission) -> Refusal:
    """Return the refusal of a request for which there is no connection."""
    # Spread, so that those who are refused do not all come back at once.
    retry_after_s = 1 + secrets.randbelow(_RETRY_WITHIN_S)
    if admission is Admission.SOURCE_FULL:
        return TooManyRequests(
            _("too many connections from your address: use fewer, or retry later"), retry_after_s=retry_after_s
        )
    return Unavailable(_("too many connections: retry later"), retry_after_s=retry_after_s)


def _is_for_operators(path: str) -> bool:
    return path in _HEALTH or path == PREFIX or path.startswith(f"{PREFIX}/")
