"""Every setting of an instance, declared once: its name in the environment, type, default and help.

A secret may come from a file instead: ``NAME_FILE`` holds the path. ``serve --help`` prints this list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from app.errors import Misconfigured
from app.model.secrets import AccessKeySecret, Secret
from app.rpc import catalog, regions

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}

SecretText = Annotated[Secret, PlainValidator(lambda text: Secret(str(text).strip()))]
SecretKey = Annotated[AccessKeySecret, PlainValidator(lambda text: AccessKeySecret(str(text).strip()))]


def _setting_of(action: str) -> str:
    """Return the name of an action's quota: ``apply_token_qps`` for ``ApplyToken``."""
    return f"{re.sub('(?<!^)(?=[A-Z])', '_', action).lower()}_qps"


if TYPE_CHECKING:
    _Quotas = BaseModel
else:
    _Quotas = create_model(
        "_Quotas",
        **{
            _setting_of(action.name): (
                float,
                Field(
                    action.qps,
                    gt=0,
                    description=f"{action.name} calls a second that the account may make, by all instances.",
                ),
            )
            for action in catalog.ACTIONS.values()
        },
    )


class Settings(_Quotas):
    """The set-up of one instance, with the account's quota for each action of the catalog.

    A field's name in upper case is its name in the environment.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    issuer_url: str = Field(
        description="The address devices call this server by, the same for all instances; the `aud` of every "
        "assertion. https, or http on a loopback address.",
    )
    redis_url: SecretText = Field(description="Redis 7+ or Valkey 8+: redis://, rediss:// or unix://.")
    policy_file: Path = Field(description="The roles: what each kind of device may publish and subscribe.")
    sealing_keys: SecretText = Field(
        description="Keys that seal secrets in Redis: ID:BASE64 of 32 bytes, comma separated. The first seals, all "
        "open: append a new key everywhere before it goes first.",
    )

    cloud_region: str = Field("cn-hangzhou", description="Region of the MQTT instance (guide chapter 2).")
    cloud_endpoint: str = Field("", description="URL of the API in place of the region's own, as for the sandbox.")
    cloud_instance_id: str = Field(min_length=1, description="ID of the MQTT instance.")
    alibaba_cloud_access_key_id: str = Field(
        "",
        description="Access key that calls the API. Left out, with its secret: the chain below is asked in its order.",
    )
    alibaba_cloud_access_key_secret: SecretKey = Field(AccessKeySecret(""), description="Its secret.")
    alibaba_cloud_security_token: SecretText = Field(Secret(""), description="Its STS token, if it is a temporary one.")

    alibaba_cloud_oidc_provider_arn: str = Field(
        "", description="Chain, first: role for a pod (RRSA); needs this, the token file and the role."
    )
    alibaba_cloud_oidc_token_file: str = Field("", description="File with the pod's OIDC token.")
    alibaba_cloud_role_arn: str = Field("", description="The role to take on.")
    alibaba_cloud_role_session_name: str = Field(
        "", description="Name of the session, as the cloud's own log shows it."
    )
    alibaba_cloud_sts_region: str = Field("", description="Region of the STS endpoint; left out: the central one.")
    alibaba_cloud_vpc_endpoint_enabled: bool = Field(default=False, description="Whether to ask STS inside the VPC.")
    alibaba_cloud_profile: str = Field(
        "", description="Chain, second: the profile in ~/.aliyun/config.json, then in ~/.alibabacloud/credentials.ini."
    )
    alibaba_cloud_cli_profile_disabled: bool = Field(default=False, description="Leave ~/.aliyun/config.json alone.")
    alibaba_cloud_credentials_file: str = Field("", description="Path in place of ~/.alibabacloud/credentials.ini.")
    alibaba_cloud_ecs_metadata: str = Field(
        "", description="Chain, third: the role of this ECS instance; left out, on ECS: whichever it has."
    )
    alibaba_cloud_ecs_metadata_disabled: bool = Field(default=False, description="Do not ask for a role of ECS.")
    alibaba_cloud_imdsv1_disabled: bool = Field(default=False, description="Ask ECS in its hardened way alone.")
    alibaba_cloud_credentials_uri: SecretText = Field(
        Secret(""), description="Chain, last: URL that answers with temporary credentials."
    )

    mqtt_host: str = Field("", description="Broker devices connect to; left out: CLOUD_INSTANCE_ID.mqtt.aliyuncs.com.")
    mqtt_port: int = Field(8883, ge=1, le=65535, description="Its port.")
    mqtt_tls: bool = Field(default=True, description="Whether that port speaks TLS.")
    mqtt_access_key_id: str = Field(
        "", description="Access key named in MQTT CONNECT, if not the one that calls; needed where the chain is asked."
    )

    egress_qps: float = Field(
        catalog.EGRESS_QPS, gt=0, description="Calls a second to the cloud from one IP address, over all actions."
    )
    egress_group: str = Field(
        "all",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Name of the IP address by which this instance's calls leave: instances with the same name share "
        "one EGRESS_QPS.",
    )

    close_connection_on_revoke: bool = Field(
        default=False,
        description="Cut a device off once the cloud confirmed a revoke (CloseConnection, on newer instances). "
        "One that holds another token comes back with it.",
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks, comma separated, of the balancers in front: only they are believed about "
        "where an operator comes from (X-Forwarded-For).",
    )
    device_max_live_tokens: int = Field(16, ge=1, description="Live tokens one device may hold.")
    device_max_new_tokens_per_hour: int = Field(120, ge=1, description="Tokens newly applied for, for one device.")
    request_deadline_s: float = Field(10.0, gt=0.5, le=120, description="Seconds a caller waits at most.")
    drain_s: float = Field(
        2.0, ge=0, le=5, description="Seconds from SIGTERM, when /readyz turns 503, to no longer listening."
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning, error.")

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from ``environ``.

        Raises ``Misconfigured`` with one line that names the first setting that is wrong or missing.
        """
        values: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            variable = name.upper()
            if path := environ.get(f"{variable}_FILE"):
                values[name] = _read_secret(field.annotation, variable, Path(path))
            elif (text := environ.get(variable)) is not None and (text or not field.is_required()):
                values[name] = text
        try:
            return cls.model_validate({name: value for name, value in values.items() if value != ""})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problem = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise Misconfigured(problem) from None
            name = str(first["loc"][0])
            if first["type"] == "missing":
                raise Misconfigured(f"{name.upper()} is not set: {cls.model_fields[name].description}") from None
            raise Misconfigured(f"{name.upper()}: {problem}") from None

    @field_validator("issuer_url")
    @classmethod
    def _issuer(cls, text: str) -> str:
        url = _web_address(text)
        if url.query or url.fragment or "@" in url.netloc:
            raise ValueError("is no plain https URL")
        if url.path not in {"", "/"}:
            # RFC 8414 section 3 would put the metadata of such an issuer elsewhere.
            raise ValueError("must have no path")
        _check_written_as_browsers_do(text.rstrip("/"), url)
        return text.rstrip("/")

    @field_validator("cloud_endpoint")
    @classmethod
    def _endpoint(cls, text: str) -> str:
        _web_address(text)
        return text.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str) -> str:
        _parse_networks(text)
        return text

    @model_validator(mode="after")
    def _region(self) -> Self:
        if not self.cloud_endpoint and self.cloud_region not in regions.REGIONS:
            known = ", ".join(sorted(regions.REGIONS))
            raise ValueError(f"CLOUD_REGION {self.cloud_region!r} is none of {known}; set CLOUD_ENDPOINT for another")
        return self

    @model_validator(mode="after")
    def _whole_access_key(self) -> Self:
        key_id, secret = self.alibaba_cloud_access_key_id, self.alibaba_cloud_access_key_secret
        if bool(key_id) != bool(secret):
            missing = "ALIBABA_CLOUD_ACCESS_KEY_SECRET" if key_id else "ALIBABA_CLOUD_ACCESS_KEY_ID"
            raise ValueError(f"{missing} is not set: an access key has both halves")
        return self

    @property
    def qps(self) -> Mapping[str, float]:
        """Calls a second that the account may make, for each action."""
        return {action: getattr(self, _setting_of(action)) for action in catalog.ACTIONS}

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of ``trusted_proxies``."""
        return _parse_networks(self.trusted_proxies)

    @property
    def endpoint(self) -> str:
        """The API's URL."""
        return self.cloud_endpoint or f"https://{regions.endpoint(self.cloud_region)}"

    @property
    def broker_host(self) -> str:
        """The host devices connect to."""
        return self.mqtt_host or f"{self.cloud_instance_id}.mqtt.aliyuncs.com"

    @property
    def mqtt_username(self) -> str:
        """What a device sends as MQTT user name with a token."""
        return f"Token|{self.mqtt_access_key_id or self.alibaba_cloud_access_key_id}|{self.cloud_instance_id}"


def _read_secret(annotation: object, variable: str, path: Path) -> str:
    if not (isinstance(annotation, type) and issubclass(annotation, Secret)):
        raise Misconfigured(f"{variable}_FILE: only a secret may come from a file; set {variable} itself")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{variable}_FILE: cannot read {path}: {error}") from error


def _web_address(text: str) -> SplitResult:
    """Split an https URL, or an http URL of a loopback address. Raises ``ValueError`` for anything else."""
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("is no http or https URL")
    try:
        wrong = url.port == 0 or url.netloc.endswith(":")
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError("its port is no number from 1 to 65535")
    if url.scheme == "http" and not _is_loopback(url.hostname):
        # Answers and parameters carry tokens: in the clear they would be anyone's on the way.
        raise ValueError("must be https unless the host is a loopback address")
    return url


def _check_written_as_browsers_do(text: str, url: SplitResult) -> None:
    """See that an address is written as a browser writes it in ``Origin`` (RFC 6454 section 6.1).

    By that the console knows its own forms; and by the first letters, that its cookies are for https alone. Raises
    ``ValueError``.
    """
    if not text.isascii():
        raise ValueError("must be in ASCII: write the host's name as xn--...")
    host = f"[{url.hostname}]" if ":" in str(url.hostname) else url.hostname
    port = "" if url.port in {None, _DEFAULT_PORTS[url.scheme]} else f":{url.port}"
    if text != f"{url.scheme}://{host}{port}":
        raise ValueError(f"must be written as browsers do: {url.scheme}://{host}{port}")


def _parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read comma separated addresses and networks. Raises ``ValueError`` with the wrong one."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
