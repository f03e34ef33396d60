from __future__ import annotations

import csv
import html
import io
import re
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient

from app.errors import Unavailable
from app.model.actors import Actor
from app.model.operators import OperatorRole
from app.model.secrets import CloudToken
from app.store.audit import Event, EventKind, NewEntry
from app.store.redis_keys import JOBS_AUDIT, OPERATORS_AUDIT
from app.web.console import audit
from app.web.route import SERVICES
from tests.callers import Caller
from tests.web.console.conftest import Seen, SignedIn

MARKUP = "<script>alert(1)</script>\"'&\x00\x1b[2J"


async def write(
    server: TestClient[Any, Any], *details: str, who: str = "operator:x", what: EventKind = EventKind.CALLED
) -> None:
    """Write lines, the first one first."""
    for detail in details:
        await server.app[SERVICES].stores.audit.append([NewEntry(OPERATORS_AUDIT, Event(Actor(who), what, detail))])


def rows(seen: Seen) -> list[list[str]]:
    """Return the cells of the table's body."""
    body = seen.text.partition("<tbody>")[2].partition("</tbody>")[0]
    found = []
    for row in body.split("<tr>")[1:]:
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        found.append([html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in cells])
    return found


def parse(seen: Seen) -> list[dict[str, str]]:
    """Read an export as a spreadsheet does."""
    assert seen.text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(seen.text[1:], newline="")))


async def test_lines_are_shown_the_newest_first(signed_in: SignedIn, caller: Caller) -> None:
    """Time, who, a readable what, links to device and token, detail; each filter narrows, and stays filled in."""
    token = (await caller.token()).body
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.get("/admin/audit")
    assert [(row[1], row[2]) for row in rows(seen)[:2]] == [
        ("operator:viewer-1", "signed in"),
        ("cli:test", "operator added"),
    ]
    seen = await viewer.get(
        "/admin/audit", what="granted", client_id=caller.client_id, who=f"device:{caller.client_id}"
    )
    [[_, who, what, client_id, handle, detail]] = rows(seen)
    assert (who, what, client_id, handle) == (
        "the device itself",
        "token issued",
        caller.client_id,
        token["handle"],
    )
    assert "pub:plant/d1/up/#" in detail
    assert f'href="/admin/devices/{caller.client_id}"' in seen.text
    assert f'href="/admin/tokens/{token["handle"]}"' in seen.text
    assert '<option value="granted" selected>' in seen.text
    assert len(rows(await viewer.get("/admin/audit", handle=token["handle"]))) == 1


async def test_every_kind_has_a_label(signed_in: SignedIn) -> None:
    """No word of the code is shown where a readable one belongs."""
    seen = await (await signed_in(OperatorRole.VIEWER)).get("/admin/audit")
    options = dict(re.findall(r'<option value="([a-z_]+)">([^<]*)<', seen.text))
    assert set(options) == set(EventKind)
    assert all("_" not in label for label in options.values())
    assert len(set(options.values())) == len(options)


async def test_times_are_utc(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """A line is found from its minute on and not before it; seconds may be given or left out."""
    viewer = await signed_in(OperatorRole.VIEWER)
    store = server.app[SERVICES].stores.redis
    words = ("who", "w", "what", "called", "client_id", "", "handle", "", "detail", "the one")
    await store.requests.command("XADD", JOBS_AUDIT, "1700000000000-1", *words)  # 2023-11-14T22:13:20Z
    for since, until, there in (
        ("2023-11-14T22:13", "2023-11-14T22:14", True),
        ("2023-11-14T22:13:20", "2023-11-14T22:13:21", True),
        ("2023-11-14T22:13:21", "2023-11-14T22:14", False),
        ("2023-11-14T22:13", "2023-11-14T22:13:20", False),
    ):
        seen = await viewer.get("/admin/audit", since=since, until=until)
        assert [row[0] for row in rows(seen)] == ["2023-11-14 22:13:20"] * there, (since, until)
        assert f'value="{since}"' in seen.text
        assert ("No entry matches." in seen.text) is not there


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"what": "nonsense"}, "what must be one of"),
        ({"handle": "x"}, "not a valid handle"),
        ({"who": "x" * 7_000}, "who has at most 128 characters"),
        ({"client_id": MARKUP * 10}, "client_id has at most 64 characters"),
        ({"since": "yesterday"}, "From: write a time as"),
        ({"until": "2026-13-01T00:00"}, "Until: write a time as"),
        ({"since": "1969-12-31T00:00"}, "a time must be in milliseconds since 1970"),
        ({"since": "2026-01-02T00:00", "until": "2026-01-01T00:00"}, "since must be before until"),
        ({"cursor": "nonsense"}, "invalid cursor"),
    ],
)
async def test_a_filter_that_can_fit_nothing_stays_as_it_was(
    signed_in: SignedIn, query: dict[str, str], reason: str
) -> None:
    """The page says what is wrong above the form, in which everything still stands; the export says it too."""
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.get("/admin/audit", **query)
    assert seen.status == 400
    assert reason in html.unescape(seen.text)
    assert "<script>alert" not in seen.text
    [(name, value)] = list(query.items())[:1]
    if name not in {"cursor", "what"}:
        assert value.replace("\x00", "�").replace("\x1b", "�")[:50] in html.unescape(seen.text)
    if name != "cursor":
        assert (await viewer.get("/admin/audit.csv", **query)).status == 400


async def test_pages_lead_from_one_to_the_next(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """Every line is on one page and no other, and the last page leads nowhere."""
    await write(server, *(f"line {number}" for number in range(230)))
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.get("/admin/audit", what="called")
    told = [row[5] for row in rows(seen)]
    while match := re.search(r'href="([^"]*)" rel="next"', seen.text):
        seen = await viewer.get(html.unescape(match[1]))
        told += [row[5] for row in rows(seen)]
    assert told == [f"line {number}" for number in reversed(range(230))]


async def test_a_short_page_says_how_far_it_looked(
    signed_in: SignedIn, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where little fits, a page may be short or empty and not the last: it says so, and offers to search on."""
    monkeypatch.setattr("app.store.audit.READ_AT_ONCE", 2)
    monkeypatch.setattr("app.store.audit._ENTRIES_A_PAGE", 4)
    await write(server, "first", who="operator:rare")
    await write(server, *(f"line {number}" for number in range(10)))
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.get("/admin/audit", who="operator:rare")
    assert "No entries found back to" in seen.text
    pages = 1
    while not rows(seen):
        assert "Continue the search" in seen.text
        match = re.search(r'href="([^"]*)" rel="next"', seen.text)
        assert match
        seen = await viewer.get(html.unescape(match[1]))
        pages += 1
    assert rows(seen)[0][5] == "first"
    assert pages > 3


async def test_a_token_in_hand_leads_to_its_handle(signed_in: SignedIn, caller: Caller) -> None:
    """By POST: the token is in no address; one of which nothing is known is refused, and not shown again."""
    token = (await caller.token()).body
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.post("/admin/audit", {"token": token["access_token"]})
    assert seen.location == f"/admin/audit?handle={token['handle']}"
    assert rows(await viewer.follow(seen))[-1][2] == "token issued"
    seen = await viewer.post("/admin/audit", {"token": "R|never-seen-anywhere"})
    assert seen.status == 404
    assert "this token is unknown" in seen.text
    assert "never-seen-anywhere" not in seen.text


async def test_what_is_shown_is_text(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """Markup and control characters in a line are escaped, in every column that can hold some."""
    await server.app[SERVICES].stores.audit.append(
        [NewEntry(OPERATORS_AUDIT, Event(Actor(MARKUP), EventKind.CALLED, MARKUP), MARKUP)]
    )
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.get("/admin/audit", what="called")
    assert "<script>alert" not in seen.text
    assert seen.text.count("&lt;script&gt;") >= 3
    assert "No entry matches." in (await viewer.get("/admin/audit", who="<b>")).text


async def test_the_export_is_what_the_page_shows(
    signed_in: SignedIn, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line that fits, over as many pages as it takes, in the same order, under names of columns."""
    monkeypatch.setattr(audit, "MAX_ENTRIES", 7)
    await write(server, *(f"line {number}" for number in range(40)))
    await write(server, "another", what=EventKind.REFUSED)
    viewer = await signed_in(OperatorRole.VIEWER)
    seen = await viewer.get("/admin/audit.csv", what="called")
    assert seen.status == 200
    assert seen.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r'attachment; filename="audit-[0-9-]+\.csv"', seen.headers["Content-Disposition"])
    for name, value in (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")):
        assert seen.headers[name] == value
    assert {"X-Timestamp", "X-Request-ID", "Content-Security-Policy"} <= set(seen.headers)
    told = parse(seen)
    assert [line["detail"] for line in told] == [f"line {number}" for number in reversed(range(40))]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told[0]["time"])
    assert list(told[0]) == ["time", "who", "what", "client_id", "handle", "detail"]
    assert 'href="/admin/audit.csv?what=called"' in (await viewer.get("/admin/audit", what="called")).text


async def test_no_cell_is_a_formula(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """What a stranger wrote into a name runs in no spreadsheet; quotes, commas and line breaks stay what they are."""
    dangerous = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")']
    plain = ['a "quoted" one', "a,b;c", "two\nlines", "two\r\nlines", "中文", "a=b", " =1", ""]
    for text in dangerous + plain:
        await server.app[SERVICES].stores.audit.append(
            [NewEntry(OPERATORS_AUDIT, Event(Actor(text), EventKind.CALLED, text), text)]
        )
    told = parse(await (await signed_in(OperatorRole.VIEWER)).get("/admin/audit.csv", what="called"))
    expected = [f"'{text}" for text in dangerous] + plain
    for column in ("who", "client_id", "detail"):
        assert [line[column] for line in reversed(told)] == expected


async def test_a_cut_off_export_says_so(
    signed_in: SignedIn, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at its limit with a line that tells; the page has the limit beforehand. At the limit all is there."""
    monkeypatch.setattr(audit, "MAX_EXPORTED", 10)
    monkeypatch.setattr(audit, "MAX_ENTRIES", 4)
    await write(server, *(f"line {number}" for number in range(11)))
    viewer = await signed_in(OperatorRole.VIEWER)
    told = parse(await viewer.get("/admin/audit.csv", what="called"))
    assert [line["detail"] for line in told[:10]] == [f"line {number}" for number in reversed(range(1, 11))]
    assert told[10]["what"] == "cut off"
    assert len(told) == 11
    assert "10 at most" in (await viewer.get("/admin/audit")).text
    narrow = {"who": "operator:y", "what": "called"}
    await write(server, *(f"line {number}" for number in range(10)), who="operator:y")
    told = parse(await viewer.get("/admin/audit.csv", **narrow))
    assert [line["detail"] for line in told] == [f"line {number}" for number in reversed(range(10))]


async def test_an_export_that_breaks_off_is_seen_to(
    signed_in: SignedIn, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Redis goes away in the middle, the browser gets no whole file, and the server goes on."""
    monkeypatch.setattr(audit, "MAX_ENTRIES", 4)
    await write(server, *(f"line {number}" for number in range(20)))
    viewer = await signed_in(OperatorRole.VIEWER)
    audit_log = server.app[SERVICES].audit_log
    search, asked = audit_log.search_events, 0

    async def breaking(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise Unavailable("Redis is out of reach")
        return await search(*arguments, **options)

    monkeypatch.setattr(audit_log, "search_events", breaking)
    with pytest.raises(ClientPayloadError):
        await viewer.get("/admin/audit.csv", what="called")
    assert (await viewer.get("/admin/audit")).status == 503
    monkeypatch.undo()
    assert (await viewer.get("/admin/audit")).status == 200


async def test_no_token_is_in_the_trail(signed_in: SignedIn, caller: Caller, server: TestClient[Any, Any]) -> None:
    """Neither in the page nor in the export, whatever was done with it."""
    token = (await caller.token()).body
    await caller.revoke(token["access_token"])
    viewer = await signed_in(OperatorRole.VIEWER)
    secrets = [CloudToken(each["token"]) for each in token["mqtt"]["tokens"]]
    for seen in (await viewer.get("/admin/audit"), await viewer.get("/admin/audit.csv")):
        assert all(secret.reveal() not in html.unescape(seen.text) for secret in secrets)
