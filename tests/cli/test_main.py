"""The command line as a whole."""

from __future__ import annotations

from app import __version__
from tests.cli.conftest import Cli


def test_it_says_its_version(cli: Cli) -> None:
    """``--version`` prints the version that the package has, and does nothing else."""
    answer = cli("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"mqtt-token-server {__version__}\n", "")


def test_help_names_every_verb(cli: Cli) -> None:
    """``--help`` says what the program is for, and lists its verbs."""
    answer = cli("--help")
    assert answer.code == 0
    assert "short-lived, topic-scoped tokens" in answer.out
    for verb in ("dev", "serve", "sandbox", "devices", "operators", "policy", "device"):
        assert f"\n  {verb} " in answer.out
