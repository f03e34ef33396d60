from __future__ import annotations

import re

import pytest

from app import errors
from app.errors import Refusal

DRAWN = re.findall(r"^    ([│ ]*)[├└]── (\w+) +(\d+) (\w+)$", errors.__doc__ or "", re.MULTILINE)


def subclasses(parent: type[Refusal]) -> set[type[Refusal]]:
    """Return all classes below ``parent`` in its own module."""
    own = {child for child in parent.__subclasses__() if child.__module__ == parent.__module__}
    return own.union(*(subclasses(child) for child in own))


def test_the_tree_drawn_has_every_refusal() -> None:
    """The module's docstring names each class of the module once."""
    drawn = [name for _, name, _, _ in DRAWN]
    assert sorted(drawn) == sorted(["Refusal", *(each.__name__ for each in subclasses(Refusal))])


@pytest.mark.parametrize(("indent", "name", "status", "code"), DRAWN)
def test_the_tree_drawn_tells_status_code_and_parent(indent: str, name: str, status: str, code: str) -> None:
    """Each line of the tree is what the class says of itself, and its depth is that of the class."""
    kind = getattr(errors, name)
    assert (kind.status, kind.code) == (int(status), code)
    assert len(indent) // 4 == len(kind.__mro__) - len(Refusal.__mro__)
