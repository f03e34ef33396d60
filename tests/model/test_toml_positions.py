from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.model.toml_positions import KeyPath, lines

TEXT = '''# a comment = [
[roles.sensor] # another "
match = ["a", # one
  "b, ]",

  'c # not a comment',
]
"quoted key" = """
several = lines
  \\""" still
""""
dotted . "k.e\\u0079".x = { y = [1, 2.5], "z" = 1979-05-27 07:32:00 }
literal = \'\'\'
[not.a.table]
''\'\'\'

[ "roles" . 'g w' ]
empty = ""
after = true
[roles.sensor.sub]
x = 1

[[tables]]
name = 1
'''


def test_every_key_and_element_has_the_line_it_begins_on() -> None:
    """Tables, dotted and quoted keys, elements of long arrays, inline tables; strings and comments are no keys."""
    assert lines(TEXT) == {
        ("roles",): 2,
        ("roles", "sensor"): 2,
        ("roles", "sensor", "match"): 3,
        ("roles", "sensor", "match", 0): 3,
        ("roles", "sensor", "match", 1): 4,
        ("roles", "sensor", "match", 2): 6,
        ("roles", "sensor", "quoted key"): 8,
        ("roles", "sensor", "dotted"): 12,
        ("roles", "sensor", "dotted", "k.ey"): 12,
        ("roles", "sensor", "dotted", "k.ey", "x"): 12,
        ("roles", "sensor", "dotted", "k.ey", "x", "y"): 12,
        ("roles", "sensor", "dotted", "k.ey", "x", "y", 0): 12,
        ("roles", "sensor", "dotted", "k.ey", "x", "y", 1): 12,
        ("roles", "sensor", "dotted", "k.ey", "x", "z"): 12,
        ("roles", "sensor", "literal"): 13,
        ("roles", "g w"): 17,
        ("roles", "g w", "empty"): 18,
        ("roles", "g w", "after"): 19,
        ("roles", "sensor", "sub"): 20,
        ("roles", "sensor", "sub", "x"): 21,
        ("tables",): 23,
        ("tables", "name"): 24,
    }


def _paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    if isinstance(value, dict):
        children = [((*path, key), child) for key, child in value.items()]
    elif isinstance(value, list):
        children = [((*path, number), child) for number, child in enumerate(value)]
    else:
        children = []
    return {place for place, _ in children} | {deep for place, child in children for deep in _paths(child, place)}


def test_the_example_is_toml_whose_every_path_has_a_line() -> None:
    """What ``tomllib`` finds in the example is what has a line, but for elements of an array of tables."""
    document = tomllib.loads(TEXT)
    (document["tables"],) = document["tables"]
    assert set(lines(TEXT)) == _paths(document)


def _written(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",\n ".join(map(_written, value)) + "\n]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key)} = {_written(child)}" for key, child in value.items()) + "}"
    return (
        '"'
        + "".join(f"\\U{ord(character):08x}" if character in '"\\\n\r' else character for character in str(value))
        + '"'
    )


PLAIN = st.text("ab \"'\\#[]{}=,.\n", max_size=5)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3))


@given(st.dictionaries(PLAIN, VALUES, max_size=4))
def test_any_toml_has_a_line_for_every_path(document: dict[str, Any]) -> None:
    """No bracket or quote inside a string misleads the scan, and each top key has the line it was written on."""
    text, top = "", {}
    for key, value in document.items():
        top[key,] = text.count("\n") + 1
        text += f"{_written(key)} = {_written(value)}\n"
    assert tomllib.loads(text) == document
    found = lines(text)
    assert set(found) == _paths(document)
    assert {path: line for path, line in found.items() if len(path) == 1} == top
