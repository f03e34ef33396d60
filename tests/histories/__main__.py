"""``python -m tests.histories``: play many histories; with ``--mutations``, take out each safeguard in turn first."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from tests.histories.ledger import Broken
from tests.histories.machine import Stage, play, stage
from tests.histories.mutations import MUTATIONS


def main() -> int:
    """Play, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    default = int(os.environ.get("HISTORIES", "500"))
    parser.add_argument("--histories", type=int, default=default, help="how many (also by $HISTORIES)")
    parser.add_argument("--seed", type=int, help="play others than those of the tests")
    parser.add_argument("--mutations", action="store_true", help="prove that each safeguard's loss is found")
    parser.add_argument("--shortest", action="store_true", help="print the shortest history that finds a mutation")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if arguments.mutations:
        return _prove(arguments.histories, arguments.seed, shortest=arguments.shortest)
    with _staged() as here:
        began = time.monotonic()
        try:
            play(here, arguments.histories, seed=arguments.seed)
        finally:
            print(f"{here.histories} histories in {time.monotonic() - began:.0f} s")
            print(*(f"  {count:6} {what}" for what, count in here.seen.most_common()), sep="\n")
    return 0


def _prove(histories: int, seed: int | None, *, shortest: bool) -> int:
    missed = 0
    print("| taken out | found | histories needed | by |", "| --- | --- | --- | --- |", sep="\n")
    for name, mutation in MUTATIONS.items():
        with mutation.applied(), _staged() as here:
            try:
                play(here, histories, seed=seed, shortest=shortest)
            except Broken:
                print(f"| {name} | yes | {here.broken_in} | {here.broken} |", flush=True)
            else:
                missed += 1
                print(f"| {name} | **no** | more than {here.histories} | |", flush=True)
    return missed


@contextmanager
def _staged() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="histories-") as state, stage(Path(state)) as here:
        yield here


if __name__ == "__main__":
    sys.exit(main())
