from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from app.store.audit import EventKind
from app.store.script import CONSTANTS, Parameters, Script
from app.store.store import Store

SOURCES = {
    entry.name.removesuffix(".lua"): entry.read_text(encoding="utf-8")
    for entry in files("app.store").iterdir()
    if entry.name.endswith(".lua")
}
PRELUDES = {"_base", "_shared", "_quota"}
NAMES = sorted(SOURCES.keys() - PRELUDES)


def values(parameters: Parameters) -> dict[str, Any]:
    """Return a value for each name that tells which it is."""
    given: dict[str, Any] = {name: f"value of {name}" for name in parameters.names}
    return given | ({parameters.sequence: ["one", "two"]} if parameters.sequence else {})


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_called_by_names_and_sent_by_position(name: str) -> None:
    """Whatever the order in which the caller names them."""
    script = Script(name)
    keys, arguments = values(script.keys), values(script.arguments)
    backwards = dict(reversed(arguments.items()))
    word, sha, count, *rest = script.command(dict(reversed(keys.items())), backwards, shift_ms=7)
    assert (word, sha) == ("EVALSHA", script.sha)
    expected_keys = [*script.keys.names, *(["one", "two"] if script.keys.sequence else [])]
    expected = [*script.arguments.names, *(["one", "two"] if script.arguments.sequence else [])]
    assert count == len(expected_keys)
    assert [str(each).removeprefix("value of ") for each in rest] == [*expected_keys, "7", *expected]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_or_unknown_name_is_an_error_at_the_first_call(name: str) -> None:
    """No script runs with an argument left out, misspelt or left over."""
    script = Script(name)
    keys, arguments = values(script.keys), values(script.arguments)
    for missing in keys:
        with pytest.raises(TypeError, match=rf"missing \['{missing}'\]"):
            script.command({key: keys[key] for key in keys if key != missing}, arguments, shift_ms=0)
    for missing in arguments:
        left = {key: arguments[key] for key in arguments if key != missing}
        with pytest.raises(TypeError, match=rf"missing \['{missing}'\], unknown \[\]"):
            script.command(keys, left, shift_ms=0)
        with pytest.raises(TypeError, match=rf"missing \['{missing}'\], unknown \['unknown'\]"):
            script.command(keys, left | {"unknown": 1}, shift_ms=0)
    with pytest.raises(TypeError, match=r"unknown \['unknown'\]"):
        script.command(keys, arguments | {"unknown": 1}, shift_ms=0)
    with pytest.raises(TypeError, match=r"unknown \['unknown'\]"):
        script.command(keys | {"unknown": "x"}, arguments, shift_ms=0)


@pytest.mark.parametrize("name", NAMES)
async def test_redis_accepts_a_script_that_reads_positions_nowhere_else(store: Store, name: str) -> None:
    """After the names are bound only the clock's shift is read by its position."""
    text = Script(name).text
    assert await store.requests.command("SCRIPT", "LOAD", text) == Script(name).sha
    assert set(re.findall(r"(?:KEYS|ARGV)\[[^\]]*\]", text)) <= {"KEYS[1]", "ARGV[1]"}
    assert len(re.findall(r"\b(?:KEYS|ARGV)\b[^\[]", text.partition("local shard")[2])) == sum(
        (parameters.names != ()) + (parameters.sequence is not None)
        for parameters in (Script(name).keys, Script(name).arguments)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local a, b = unpack(ARGV)\n", "begins at 2"),
        ("local a, b = unpack(ARGV, 2)\nlocal rest = {unpack(ARGV, 3)}\n", "begins at 4"),
    ],
)
def test_positions_that_do_not_fit_the_names_are_an_error(text: str, message: str) -> None:
    """A sequence begins after the last name."""
    with pytest.raises(ValueError, match=message):
        Parameters(text, "ARGV", first=2)


def test_a_constant_that_scripts_know_is_used_by_one() -> None:
    """What no script needs is not handed to any."""
    names = {name for text in SOURCES.values() for name in re.findall(r"\b[A-Z][A-Z_]+\b", text)}
    assert set(CONSTANTS) - names == set()


def test_a_script_knows_each_event_that_it_writes() -> None:
    """``EventKind`` lists what the scripts write by themselves."""
    written = {kind for text in SOURCES.values() for kind in re.findall(r"what = '(\w+)'", text)}
    assert len(written) > 5
    assert written <= {kind.value for kind in EventKind}
