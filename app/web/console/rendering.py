"""How a page is made: its template in the reader's language, and the headers that every answer of the console has."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any, Final
from urllib.parse import quote

import aiohttp_jinja2
import jinja2
from aiohttp import web
from jinja2.bccache import Bucket
from markupsafe import Markup

from app import __version__
from app.errors import NotFound, Refusal
from app.loop_share import in_slices
from app.model.operators import Operator, OperatorRole
from app.model.text import _
from app.web.console.languages import COOKIE, LANGUAGES, TEMPLATES, Language, choose
from app.web.console.results import DONE, PREFIX, PageContent
from app.web.route import SERVICES

SIGNED_IN: Final = web.RequestKey("operator", Operator)
"""Who is signed in, once that is known."""

_ENVIRONMENTS: Final = {code: web.AppKey(f"jinja_{code}", jinja2.Environment) for code in LANGUAGES}

_HEADERS: Final = {
    # No inline script or style, nothing from elsewhere: what an attacker could smuggle into a page does not run.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # What a page shows stays in no cache, and the back button loads it again.
    "Cache-Control": "no-store",
    # With no-referrer browsers would send `Origin: null` with a form, and every form would look foreign.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_ILLEGIBLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STRICT_TRANSPORT: Final = "max-age=31536000"


class _CompiledTemplates(jinja2.BytecodeCache):
    """Compiled templates, once for all languages of this process: compiling one takes 20 ms."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load the compiled form of this very text, if there is one."""
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the compiled form."""
        if bucket.code:
            self._codes[bucket.key, bucket.checksum] = bucket.code


_COMPILED: Final = _CompiledTemplates()


@dataclass(frozen=True, slots=True)
class _StaticFile:
    """A stylesheet, script or picture, with the digest that is part of its address."""

    body: bytes
    content_type: str
    digest: str


def set_up(app: web.Application) -> None:
    """Let ``app`` render pages in every language, and give their answers the headers of the console."""
    for language in LANGUAGES.values():
        _set_up_language(app, language)
        _warm_up(app[_ENVIRONMENTS[language.code]], language)
    app.on_response_prepare.append(_harden)


def _warm_up(environment: jinja2.Environment, language: Language) -> None:
    """Do before the first request what takes the loop for long once: compile templates, and read the locale's data."""
    for name in environment.list_templates(filter_func=lambda name: name.startswith("console/")):
        environment.get_template(name)
    language.ago(0, 0)


def _set_up_language(app: web.Application, language: Language) -> None:
    environment = aiohttp_jinja2.setup(
        app,
        app_key=_ENVIRONMENTS[language.code],
        loader=jinja2.FileSystemLoader(TEMPLATES),
        bytecode_cache=_COMPILED,
        autoescape=True,  # whatever is filled in is text: markup in a note or a topic stays what was typed
        finalize=_replace_illegible,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    environment.globals |= {
        "language": language,
        "languages": LANGUAGES,
        "static": lambda name: f"{PREFIX}/static/{name}?v={_static_files()[name].digest}",
        "version": __version__,
        "Role": OperatorRole,
    }
    environment.filters |= {
        "number": language.number,
        "percent": language.percent,
        "sentence": language.sentence,
        "span": language.span,
        "when": language.when,
        "segment": lambda text: quote(text, safe="@:"),
    }


def uses_https(app: web.Application) -> bool:
    """Return whether browsers come by https alone."""
    return app[SERVICES].settings.issuer_url.startswith("https:")


def is_console(request: web.Request) -> bool:
    """Return whether a request is for the console, also if there is no such page."""
    return request.path == PREFIX or request.path.startswith(f"{PREFIX}/")


def language_of(request: web.Request) -> Language:
    """Return the language a request is answered in."""
    return choose(request.cookies.get(COOKIE), request.headers.get("Accept-Language", ""))


async def render_page(request: web.Request, content: PageContent) -> web.Response:
    """Make a page of its content, in the language of the request, in slices: a long one takes the loop for 20 ms."""
    parts = [part async for part in in_slices(_page_parts(request, content))]
    return _page(content, "".join(parts))


def render_refusal_at_once(request: web.Request, refusal: Refusal) -> web.Response:
    """Make a small page that says why a request was refused, where there is no time or no share for a whole one."""
    content = PageContent.of("refused_plain.html", status=refusal.status, problem=refusal)
    return _page(content, "".join(_page_parts(request, content)))


async def render_refusal_page(request: web.Request, refusal: Refusal) -> web.Response:
    """Make the page that says why a request was refused, and what helps."""
    return await render_page(request, PageContent.of("refused.html", status=refusal.status, problem=refusal))


def _page_parts(request: web.Request, content: PageContent) -> Iterator[str]:
    """Render a template piece by piece."""
    language = language_of(request)
    now_ms = request.app[SERVICES].clock.now_ms()
    context: dict[str, Any] = {
        "operator": request.get(SIGNED_IN),
        "path": request.path,
        "here": _here(request),
        "now_ms": now_ms,
        "ago": lambda at_ms: language.ago(at_ms, now_ms),
        "problem": None,
        "done": request.query.get(DONE, "") if request.method == "GET" else "",
    }
    template = request.app[_ENVIRONMENTS[language.code]].get_template(f"console/{content.template}")
    return template.generate({**context, **content.context})


def _page(content: PageContent, text: str) -> web.Response:
    response = web.Response(text=text, status=content.status, content_type="text/html", charset="utf-8")
    problem = content.context.get("problem")
    if problem is not None and problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


async def send_static_file(request: web.Request) -> web.Response:
    """Answer ``GET /admin/static/NAME``. Raises ``NotFound``."""
    file = _static_files().get(request.match_info["name"])
    if file is None:
        raise NotFound(_("there is no such file"))
    response = web.Response(body=file.body, content_type=file.content_type)
    if request.query.get("v") == file.digest:
        # Another content has another address, so this one can be kept for ever.
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


def _here(request: web.Request) -> str:
    """Return where to ask for the page in another language: above a button's address where that has no page."""
    resource = request.match_info.route.resource
    if resource is not None and all(route.method == "POST" for route in resource):
        return str(request.rel_url.parent)
    return str(request.rel_url.without_query_params(DONE))


def _replace_illegible(value: object) -> object:
    """Replace what HTML must not hold (control characters), or what turns the text around it, by a mark."""
    if not isinstance(value, str) or not _ILLEGIBLE.search(value):
        return value
    legible = _ILLEGIBLE.sub("\ufffd", value)
    # What was markup before is still escaped: a mark took the place of characters.
    return Markup(legible) if isinstance(value, Markup) else legible  # noqa: S704


@cache
def _static_files() -> dict[str, _StaticFile]:
    folder = next(folder / "static" for folder in TEMPLATES if (folder / "static").is_dir())
    return {
        path.name: _StaticFile(
            body=(body := path.read_bytes()),
            content_type=mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            digest=hashlib.sha256(body).hexdigest()[:12],
        )
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer below ``/admin``, and the page at ``/``, its headers, refusals and redirects included."""
    if request.path == "/" or is_console(request):
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if uses_https(request.app):
            response.headers["Strict-Transport-Security"] = _STRICT_TRANSPORT
