"""What a handler of the console returns: a page's content, where to go next, or a file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

PREFIX: Final = "/admin"

DONE: Final = "done"
"""The parameter by which the page after a form says what was done: a word that its template knows, or nothing."""


@dataclass(frozen=True, slots=True)
class PageContent:
    """A page to show: its template below ``console/`` and what is filled in."""

    template: str
    context: Mapping[str, Any]
    status: int = 200

    @classmethod
    def of(cls, template: str, *, status: int = 200, **context: Any) -> PageContent:
        """Name the template, and fill it in."""
        return cls(template, context, status)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where to go next, and what to say there (see ``DONE``)."""

    to: str
    done: str = ""
    query: Mapping[str, str] | None = None

    @property
    def location(self) -> str:
        """The address, with its parameters."""
        parameters = {**(self.query or {}), **({DONE: self.done} if self.done else {})}
        return f"{self.to}?{urlencode(parameters)}" if parameters else self.to


@dataclass(frozen=True, slots=True)
class Download:
    """A file to be kept, in parts as they are made: each gets as long as it takes.

    One that breaks off is seen to have done so, for its end is missing.
    """

    parts: AsyncGenerator[bytes, None]
    content_type: str
    filename: str


Result = PageContent | Redirect | Download


def see_other(location: str) -> web.Response:
    """Send the browser on with a GET (RFC 9110 section 15.4.4), so that a reload sends no form again."""
    return web.Response(status=303, headers={"Location": location})
