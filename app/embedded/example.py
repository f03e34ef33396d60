"""The example account, devices and operator of one `dev`: generated once, then kept in its state directory."""

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
    "# Settings of the instances that `dev` starts. Your changes are kept, but `dev` sets the addresses and ports.\n"
)


class BrokenState(Exception):
    """A file in the state directory is damaged; the message names it."""


@dataclass(frozen=True)
class Example:
    """Secrets of the example devices and operator. They are valid only for one `dev`; ``dev.json`` has them too."""

    device_secret: str
    dashboard_secret: str
    operator_name: str
    operator_password: str


def load_example(state: Path) -> Example:
    """Return the example devices and operator of ``state``; generate them the first time.

    Raises ``BrokenState`` and ``OSError``, as do the functions below.
    """
    path = state / "example.json"
    if not path.exists():
        # URL-safe: needs no encoding in Basic authentication (RFC 6749 2.3.1) and no quoting in a shell.
        example = Example(secrets.token_urlsafe(32), secrets.token_urlsafe(32), "admin", secrets.token_urlsafe(12))
        write_private(path, json.dumps(asdict(example), indent=2) + "\n")
    try:
        return Example(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BrokenState(
            f"{path} is damaged ({error}): remove it and the example devices, then start dev again"
        ) from error


def load_settings(state: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the instances of ``state``; generate keys and names the first time.

    ``addresses`` are the settings that depend on the ports of this run; they replace those of an earlier run. All other
    settings in ``settings.env`` are kept.
    """
    path = state / "settings.env"
    policy = state / "policy.toml"
    if not policy.exists():
        write_private(policy, _EXAMPLE_POLICY.read_text(encoding="utf-8"))
    kept = read_settings(path) if path.exists() else _generate_settings()
    settings = {**kept, "POLICY_FILE": str(policy.resolve()), **addresses}
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    write_private(path, _HEADER + "".join(lines))
    return settings


def read_settings(path: Path) -> dict[str, str]:
    """Read a ``settings.env``: lines NAME=VALUE in shell quoting, so that a shell can source it too."""
    try:
        words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
        return {name: value for name, _, value in map(_assignment, words)}
    except ValueError as error:
        raise BrokenState(f"{path} is damaged: {error}: correct it, or remove it and start dev again") from error


def _assignment(word: str) -> tuple[str, str, str]:
    if "=" not in word:
        raise ValueError(f"{word[:20]!r} is not NAME=VALUE")
    return word.partition("=")


def _generate_settings() -> dict[str, str]:
    # In the form of the cloud's own names and keys, so that a newcomer recognizes the real ones later.
    return {
        "SEALING_KEYS": f"dev:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "CLOUD_REGION": "cn-hangzhou",
        "CLOUD_INSTANCE_ID": f"post-cn-{_random_text(11, string.ascii_lowercase + string.digits)}",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": f"LTAI{_random_text(20, string.ascii_letters + string.digits)}",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": _random_text(30, string.ascii_letters + string.digits),
    }


def _random_text(length: int, alphabet: str) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
