"""The ecosystem's chain of credentials, by its own library: the sources of an access key for this machine (FACTS 6).

The library is asked synchronously, in a thread: its coroutines hold a ``threading.Lock`` and freeze the loop. What it
renews by itself is not used: each fetch asks a provider made for it, so that no thread, cache or back-off of the
library is in the way. Only the profiles keep theirs, since they do not say when credentials expire.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from app.cloud.credentials import Credentials, Fetched, NoCredentials
from app.model.secrets import AccessKeySecret, Secret

_PRODUCT_NAME: Final = Path("/sys/class/dmi/id/product_name")
_ON_ECS: Final = "Alibaba Cloud ECS"
_LOGGERS: Final = ("credentials", "alibabacloud-tea", "darabonba-core")
_HTTP_CODE: Final = re.compile(r"http_?code[:=] ?(\d{3})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sources:
    """The settings of the chain; each is ``ALIBABA_CLOUD_`` and its name in upper case."""

    oidc_provider_arn: str = ""
    oidc_token_file: str = ""
    role_arn: str = ""
    role_session_name: str = ""
    sts_region: str = ""
    vpc_endpoint_enabled: bool = False
    profile: str = ""
    cli_profile_disabled: bool = False
    credentials_file: str = ""
    ecs_metadata: str = ""
    ecs_metadata_disabled: bool = False
    imdsv1_disabled: bool = False
    credentials_uri: Secret = Secret("")  # noqa: RUF009 (it does not change)


class Chain:
    """Asks the sources in the ecosystem's order, and from then on only the one that answered first.

    Another source's key could belong to another account, so it does not replace this one.
    """

    def __init__(self, sources: Sources, home: Path | None = None) -> None:
        """Find which sources there are; none is asked yet. ``home`` is the directory of the profiles."""
        self._providers = dict(_providers(sources, home or Path.home()))

    def __bool__(self) -> bool:
        """Return whether there is any source."""
        return bool(self._providers)

    def fetch(self) -> Fetched:
        """Ask for credentials; this blocks for some seconds per source. Raises ``NoCredentials``."""
        failures = []
        for name, provider in self._providers.items():
            try:
                given = provider().get_credentials()
                fetched = _fetched(name, given)
            except Exception as error:  # noqa: BLE001 (the library raises any error)
                failures.append(f"{name}: {_reason(error)}")
            else:
                self._providers = {name: provider}
                return fetched
        raise NoCredentials("; ".join(failures))


def _providers(sources: Sources, home: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield name and maker of each source that is there, in the order of the library's own default chain."""
    if sources.oidc_token_file and sources.role_arn and sources.oidc_provider_arn:
        yield (
            "OIDC",
            lambda: _library().OIDCRoleArnCredentialsProvider(
                role_arn=sources.role_arn,
                oidc_provider_arn=sources.oidc_provider_arn,
                oidc_token_file_path=sources.oidc_token_file,
                role_session_name=sources.role_session_name,
                sts_region_id=sources.sts_region,
                enable_vpc=sources.vpc_endpoint_enabled,
            ),
        )
    cli_profiles = home / ".aliyun" / "config.json"
    if cli_profiles.is_file() and not sources.cli_profile_disabled:
        yield (
            "CLI profile",
            cache(
                lambda: _library().CLIProfileCredentialsProvider(
                    profile_file=str(cli_profiles), profile_name=sources.profile
                )
            ),
        )
    profiles = Path(sources.credentials_file or home / ".alibabacloud" / "credentials.ini")
    if profiles.is_file():
        yield (
            "profile",
            cache(
                lambda: _library().ProfileCredentialsProvider(
                    profile_file=str(profiles), profile_name=sources.profile or "default"
                )
            ),
        )
    # The library asks for a role on any machine, and waits seconds for the answer where there is none to come.
    if not sources.ecs_metadata_disabled and (sources.ecs_metadata or _is_ecs()):
        yield (
            "ECS role",
            lambda: _library().EcsRamRoleCredentialsProvider(
                role_name=sources.ecs_metadata, disable_imds_v1=sources.imdsv1_disabled, async_update_enabled=False
            ),
        )
    if sources.credentials_uri:
        yield "URI", lambda: _library().URLCredentialsProvider(uri=sources.credentials_uri.reveal())


@cache
def _library() -> Any:
    """Import the library where it is needed: that takes long. It logs to standard error, secrets included: not here."""
    from alibabacloud_credentials import provider  # noqa: PLC0415

    for name in _LOGGERS:
        logging.getLogger(name).disabled = True
    return provider


def _is_ecs() -> bool:
    """Return whether this machine is the cloud's own, by the name its firmware gives (as cloud-init does)."""
    try:
        return _PRODUCT_NAME.read_text(encoding="utf-8").strip() == _ON_ECS
    except (OSError, UnicodeDecodeError):
        return False


def _fetched(source: str, given: Any) -> Fetched:
    key_id, key_secret = given.get_access_key_id(), given.get_access_key_secret()
    if not (isinstance(key_id, str) and isinstance(key_secret, str) and key_id and key_secret):
        raise ValueError("access key missing")
    security_token, expiration_s = given.get_security_token(), given.get_expiration()
    credentials = Credentials(key_id, AccessKeySecret(key_secret), Secret(security_token) if security_token else None)
    return Fetched(credentials, source, expiration_s * 1000 if expiration_s else None)


def _reason(error: Exception) -> str:
    """Return what went wrong without the library's words: they quote the whole answer, or a URL with the OIDC token."""
    status = _HTTP_CODE.search(str(error))
    return f"HTTP {status[1]}" if status else type(error).__name__
