"""The HTML of every page that any test looked at, as it came from the server. Last, for the others gather it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

Validate = Callable[[Path], list[str]]

CONFIG = Path(__file__).with_name("htmlvalidate.config.mjs")


@pytest.fixture
def validate(node_modules: Path, need_program: Callable[[str], str]) -> Validate:
    """A function that returns what the validator says of the pages in a folder."""
    command = [need_program("node"), str(node_modules / "html-validate/bin/html-validate.mjs"), "--config", str(CONFIG)]
    return partial(complaints, command)


def complaints(command: list[str], folder: Path) -> list[str]:
    """Return what the validator says of the pages in a folder."""
    # Into a file: through a pipe the validator ends before all of a long answer is out.
    answer = folder / "answer.json"
    subprocess.run(
        [*command, "--formatter", f"json={answer}", str(folder)], capture_output=True, check=False, timeout=60
    )
    return [
        f"{Path(result['filePath']).name}:{each['line']}: {each['ruleId']}: {each['message']}"
        for result in json.loads(answer.read_text())
        for each in result["messages"]
    ]


def test_the_html_of_every_page_is_valid(documents: Path, validate: Validate) -> None:
    """Each page's HTML is valid, and as accessible as can be told from it alone."""
    if not any(documents.iterdir()):
        pytest.fail("no page was looked at before: run all of tests/browser")
    assert validate(documents) == []


def test_the_validator_finds_what_is_wrong(tmp_path: Path, validate: Validate) -> None:
    """A page with two equal ids, a field without a label and a style of its own is found."""
    body = '<p id="a" style="color: red">x</p><p id="a">y</p><form action="/"><input name="q" type="text"></form>'
    (tmp_path / "wrong.html").write_text(f'<!doctype html>\n<html lang="en"><head><title>x</title></head>{body}</html>')
    found = " ".join(validate(tmp_path))
    assert all(rule in found for rule in ("no-dup-id", "no-inline-style", "input-missing-label"))
