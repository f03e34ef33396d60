"""The made-up account, devices and operator of one `dev`: drawn once, then kept in its state directory."""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from app.embedded.state import write_private

GROUP_ID: Final = "GID_plant"
DEVICE_ID: Final = f"{GROUP_ID}@@@d1"
DASHBOARD_ID: Final = f"{GROUP_ID}@@@dashboard"

_EXAMPLE_POLICY: Final = Path(__file__).with_name("policy.toml")
_HEADER: Final = (
    "# The settings of the instances of `dev`, as `serve` reads them. Yours are kept; addresses follow dev.\n"
)


class BrokenState(Exception):
    """A file in the state directory is not what `dev` wrote; the message names it."""


@dataclass(frozen=True)
class Example:
    """Whom a newcomer can be. Secrets are in the clear here, as in ``dev.json``: they open nothing but this sandbox."""

    device_secret: str
    dashboard_secret: str
    operator_name: str
    operator_password: str


def load_example(state: Path) -> Example:
    """Return the example devices and operator of ``state``, drawing them the first time.

    Raises ``BrokenState`` and ``OSError``, like all that follow.
    """
    path = state / "example.json"
    if not path.exists():
        # URL-safe: needs no encoding in Basic authentication (RFC 6749 2.3.1) and no quoting in a shell.
        example = Example(secrets.token_urlsafe(32), secrets.token_urlsafe(32), "admin", secrets.token_urlsafe(12))
        write_private(path, json.dumps(asdict(example), indent=2) + "\n")
    try:
        return Example(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BrokenState(f"{path} is damaged ({error}): remove it, and the example devices") from error


def load_settings(state: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the instances of ``state``, drawing keys and names the first time.

    ``addresses`` are the settings that follow from this run's ports; they replace what an earlier run wrote. Any other
    line that a person added to ``settings.env`` stays.
    """
    path = state / "settings.env"
    policy = state / "policy.toml"
    if not policy.exists():
        write_private(policy, _EXAMPLE_POLICY.read_text(encoding="utf-8"))
    kept = read_settings(path) if path.exists() else _draw_settings()
    settings = {**kept, "POLICY_FILE": str(policy.resolve()), **addresses}
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    write_private(path, _HEADER + "".join(lines))
    return settings


def read_settings(path: Path) -> dict[str, str]:
    """Read a ``settings.env``: NAME=VALUE in shell quoting, so that a shell can source it too."""
    try:
        words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
        return {name: value for name, _, value in map(_assignment, words)}
    except ValueError as error:
        raise BrokenState(f"{path} is damaged: {error}") from error


def _assignment(word: str) -> tuple[str, str, str]:
    if "=" not in word:
        raise ValueError(f"{word[:20]!r} is no NAME=VALUE")
    return word.partition("=")


def _draw_settings() -> dict[str, str]:
    # The shapes are the cloud's, so that a newcomer recognises the real ones later.
    return {
        "SEALING_KEYS": f"dev:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "CLOUD_REGION": "cn-hangzhou",
        "CLOUD_INSTANCE_ID": f"post-cn-{_draw(11, string.ascii_lowercase + string.digits)}",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": f"LTAI{_draw(20, string.ascii_letters + string.digits)}",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": _draw(30, string.ascii_letters + string.digits),
    }


def _draw(length: int, alphabet: str) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
