from __future__ import annotations

import pytest

from app.model.toml_positions import KeyPath, line_of

TEXT = '''# [a.comment]
[roles.sensor] # "another"
match = ["a", # one
  "b, ]",

  'c # not a comment', 4,
]
"quoted = key" = """
several = lines
  \\""" still
""""
dotted . "k.e\\u0079".x = { y = [1, 2.5] }

[ "roles" . 'g w' ]
empty = ""
after = true

[[tables]]
name = 1
[roles]
x.y = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("roles",), 2),
        (("roles", "sensor"), 2),
        (("roles", "sensor", "match"), 3),
        (("roles", "sensor", "match", 0), 3),
        (("roles", "sensor", "match", 1), 4),
        (("roles", "sensor", "match", 2), 6),
        (("roles", "sensor", "match", 3), 6),
        (("roles", "sensor", "quoted = key"), 8),
        (("roles", "sensor", "dotted"), 12),
        (("roles", "sensor", "dotted", "k.ey", "x"), 12),
        (("roles", "g w"), 14),
        (("roles", "g w", "empty"), 15),
        (("roles", "g w", "after"), 16),
        (("tables",), 18),
        (("roles", "x"), 21),
        (("roles", "x", "y"), 21),
    ],
)
def test_a_table_a_key_and_an_element_have_the_line_they_begin_on(path: KeyPath, line: int) -> None:
    """Tables, dotted and quoted keys, elements of long arrays; comments and strings in arrays are not keys."""
    assert line_of(TEXT, path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("roles", "sensor", "missing"), 2),
        (("roles", "sensor", "dotted", "k.ey", "x", "y"), 12),
        (("roles", "missing"), 2),
        (("missing", "key"), 1),
    ],
)
def test_what_has_no_line_of_its_own_has_that_of_what_is_around_it(path: KeyPath, line: int) -> None:
    """A missing key and one inside an inline table have the line of the nearest table or key, else the first."""
    assert line_of(TEXT, path) == line


def test_a_multi_line_string_cannot_make_the_scan_fail() -> None:
    """A line of a string may look like a key that TOML does not allow."""
    assert line_of("a = '''\n\"\\q\" = 1\n'''\nb = 1\n", ("b",)) == 4
