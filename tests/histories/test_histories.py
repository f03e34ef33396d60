"""Histories of two instances, a real Redis and the sandbox; ``python -m tests.histories`` plays many more."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.histories.ledger import Broken
from tests.histories.machine import play, stage
from tests.histories.mutations import MUTATIONS

FEW: Final = 20
ENOUGH: Final = 100
SCRIPTS: Final = ("request_token", "store_token")


@pytest.mark.timeout(600)
def test_no_history_breaks_a_promise(tmp_path: Path) -> None:
    """Whatever is interleaved with crashes, holds and the passing of time: promises 1 to 3 are kept."""
    with stage(tmp_path) as here:
        play(here, int(os.environ.get("HISTORIES", FEW)))
        sys.stdout.write(f"{here.histories} histories: {dict(here.seen)}\n")
    assert set(here.seen) >= {
        "revoked",
        "revoked under way",
        "revoke unanswered",
        "died while delivering",
        "confirmed",
    }


@pytest.mark.parametrize("taken_out", ["the jti claim", "queueing before answering"])
def test_a_safeguard_that_is_taken_out_is_missed(tmp_path: Path, taken_out: str) -> None:
    """The histories can fail; ``python -m tests.histories --mutations`` takes out the others."""
    with MUTATIONS[taken_out].applied(), stage(tmp_path) as here, pytest.raises(Broken):
        play(here, ENOUGH, shortest=False)


@pytest.mark.parametrize("taken_out", MUTATIONS)
def test_a_mutation_changes_the_scripts_that_there_are(taken_out: str) -> None:
    """Each text that it replaces is in a script of today."""
    assert MUTATIONS[taken_out].stale(SCRIPTS) == []
