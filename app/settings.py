"""Every setting of an instance, declared once: its name in the environment, type, default and help.

A secret may come from a file instead: ``NAME_FILE`` is its path. ``serve --help`` prints this list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
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
from app.model.ip_addresses import IpNetwork, parse_network
from app.model.secrets import AccessKeySecret, Secret
from app.rpc import catalog, regions
from app.value_errors import explain_value_error

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_EGRESS_GROUP: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

MIN_QPS: Final = 0.01
MAX_QPS: Final = 1e9
"""Out of the way of all that can be called: for measurements."""

SecretText = Annotated[Secret, PlainValidator(lambda text: Secret(str(text).strip()))]
SecretKey = Annotated[AccessKeySecret, PlainValidator(lambda text: AccessKeySecret(str(text).strip()))]


def _setting_of(action: str) -> str:
    """Return the name of the setting of an action's quota: ``apply_token_qps`` for ``ApplyToken``."""
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
                    ge=MIN_QPS,
                    le=MAX_QPS,
                    allow_inf_nan=False,
                    description=f"Quota of the account: {action.name} calls per second, over all instances.",
                ),
            )
            for action in catalog.ACTIONS.values()
        },
    )


class Settings(_Quotas):
    """The settings of one instance, with the account's quota for each action of the catalog.

    A field's name in upper case is its name in the environment.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    issuer_url: str = Field(
        description="URL of this server as devices call it, the same for all instances; the `aud` of every assertion. "
        "https, or http on a loopback address.",
    )
    redis_url: SecretText = Field(description="URL of Redis 7+ or Valkey 8+: redis://, rediss:// or unix://.")
    policy_file: Path = Field(description="File with the roles: what each kind of device may publish and subscribe.")
    sealing_keys: SecretText = Field(
        description="Keys that encrypt the secrets in Redis: ID:BASE64 of 32 bytes, comma separated. The first one "
        "encrypts, all decrypt: append a new key at all instances before you put it first.",
    )

    cloud_region: str = Field("cn-hangzhou", description="Region of the MQTT instance (guide chapter 2).")
    cloud_endpoint: str = Field(
        "", description="URL of the cloud's API, if not that of the region: a sandbox, for example."
    )
    cloud_instance_id: str = Field(description="ID of the MQTT instance.")
    alibaba_cloud_access_key_id: str = Field(
        "",
        description="Access key for the cloud's API. Without it the sources below are tried in their order.",
    )
    alibaba_cloud_access_key_secret: SecretKey = Field(AccessKeySecret(""), description="Secret of that key.")
    alibaba_cloud_security_token: SecretText = Field(
        Secret(""), description="STS token of that key, if it is temporary."
    )

    alibaba_cloud_oidc_provider_arn: str = Field(
        "", description="First source: the role of a pod (RRSA). It needs this setting and the next two."
    )
    alibaba_cloud_oidc_token_file: str = Field("", description="File with the OIDC token of the pod.")
    alibaba_cloud_role_arn: str = Field("", description="ARN of the role.")
    alibaba_cloud_role_session_name: str = Field("", description="Name of the session in the cloud's own log.")
    alibaba_cloud_sts_region: str = Field("", description="Region of the STS endpoint. Default: the central one.")
    alibaba_cloud_vpc_endpoint_enabled: bool = Field(default=False, description="Use the STS endpoint inside the VPC.")
    alibaba_cloud_profile: str = Field(
        "", description="Second source: this profile in ~/.aliyun/config.json, then in ~/.alibabacloud/credentials.ini."
    )
    alibaba_cloud_cli_profile_disabled: bool = Field(default=False, description="Do not read ~/.aliyun/config.json.")
    alibaba_cloud_credentials_file: str = Field(
        "", description="File to read in place of ~/.alibabacloud/credentials.ini."
    )
    alibaba_cloud_ecs_metadata: str = Field(
        "", description="Third source: the name of the RAM role of this ECS instance. Default: the one it has."
    )
    alibaba_cloud_ecs_metadata_disabled: bool = Field(
        default=False, description="Do not use the role of the ECS instance."
    )
    alibaba_cloud_imdsv1_disabled: bool = Field(
        default=False, description="Use only the hardened mode of the ECS metadata service (IMDSv2)."
    )
    alibaba_cloud_credentials_uri: SecretText = Field(
        Secret(""), description="Last source: URL that answers with temporary credentials."
    )

    mqtt_host: str = Field(
        "", description="Host of the broker for devices. Default: CLOUD_INSTANCE_ID.mqtt.aliyuncs.com."
    )
    mqtt_port: int = Field(8883, ge=1, le=65535, description="Port of that broker.")
    mqtt_tls: bool = Field(default=True, description="Whether that port uses TLS.")
    mqtt_access_key_id: str = Field(
        "",
        description="Access key in MQTT user names. Default: ALIBABA_CLOUD_ACCESS_KEY_ID; required without it.",
    )

    egress_qps: float = Field(
        catalog.EGRESS_QPS,
        ge=MIN_QPS,
        le=MAX_QPS,
        allow_inf_nan=False,
        description="Calls per second to the cloud from one IP address, over all actions.",
    )
    egress_group: str = Field(
        "all",
        description="Name of the IP address from which this instance calls the cloud: instances with the same name "
        "share one EGRESS_QPS.",
    )

    cloud_jitter_ms: int = Field(
        30,
        ge=0,
        le=1000,
        description="Range of the delay of calls on their way to the cloud, in ms. By so much more than a second each "
        "counts towards its quotas.",
    )

    close_connection_on_revoke: bool = Field(
        default=False,
        description="Close a device's connection when the cloud confirms a revoke (CloseConnection, on newer "
        "instances). A device with another token can connect again.",
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks of the load balancers, comma separated: a client's address is taken from "
        "X-Forwarded-For only if one of them sent it. They are never limited by address themselves.",
    )
    max_connections: int = Field(
        10_000,
        ge=16,
        le=1_000_000,
        description="Most connections to this instance. Beyond it the one that has waited longest for its client is "
        "closed; if all wait for this server, only /healthz, /readyz and the console are served. Each takes a file: "
        "the hard limit of open files must allow them.",
    )
    max_connections_per_address: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="The same for one source address (of IPv6 for the first 64 bits). A loopback address and "
        "TRUSTED_PROXIES are not limited.",
    )
    keep_alive_s: float = Field(
        75.0,
        ge=1,
        le=3600,
        description="Seconds until a connection without a request is closed. A load balancer that reuses connections "
        "must close them earlier.",
    )
    device_max_live_tokens: int = Field(16, ge=1, description="Most live tokens of one device.")
    device_max_new_tokens_per_hour: int = Field(120, ge=1, description="Most new tokens of one device per hour.")
    request_deadline_s: float = Field(10.0, gt=0.5, le=120, description="Longest time a request may take, in seconds.")
    drain_s: float = Field(
        2.0, ge=0, le=5, description="Seconds between SIGTERM, when /readyz turns to 503, and the end of listening."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error. Above info, neither requests nor the audit are in the log."
    )

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
            # No value of a secret is quoted: any text is a valid secret.
            first = error.errors(include_url=False, include_input=False)[0]
            if not first["loc"]:
                raise Misconfigured(explain_value_error(error)) from None
            name = str(first["loc"][0])
            if first["type"] == "missing":
                raise Misconfigured(f"{name.upper()} is not set: {cls.model_fields[name].description}") from None
            raise Misconfigured(f"{name.upper()}: {explain_value_error(error)}") from None

    @field_validator("issuer_url")
    @classmethod
    def _issuer(cls, text: str) -> str:
        url = _web_address(text)
        if url.query or url.fragment or "@" in url.netloc:
            raise ValueError("must have no user name, query or fragment")
        if url.path not in {"", "/"}:
            # RFC 8414 section 3 has another place for the metadata of such an issuer.
            raise ValueError(f"must have no path, but has {url.path!r}")
        _check_written_as_browsers_do(text.rstrip("/"), url)
        return text.rstrip("/")

    @field_validator("cloud_endpoint")
    @classmethod
    def _endpoint(cls, text: str) -> str:
        _web_address(text)
        return text.rstrip("/")

    @field_validator("egress_group")
    @classmethod
    def _group_name(cls, text: str) -> str:
        if not _EGRESS_GROUP.fullmatch(text):
            raise ValueError(f"{text!r} is not valid: use 1 to 64 of A-Z a-z 0-9 _ . -")
        return text

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str) -> str:
        _parse_networks(text)
        return text

    @model_validator(mode="after")
    def _region(self) -> Self:
        if not self.cloud_endpoint and self.cloud_region not in regions.REGIONS:
            known = ", ".join(sorted(regions.REGIONS))
            raise ValueError(
                f"CLOUD_REGION {self.cloud_region!r} is not known: use one of {known}, or set CLOUD_ENDPOINT"
            )
        return self

    @model_validator(mode="after")
    def _whole_access_key(self) -> Self:
        key_id, secret = self.alibaba_cloud_access_key_id, self.alibaba_cloud_access_key_secret
        if bool(key_id) != bool(secret):
            missing = "ALIBABA_CLOUD_ACCESS_KEY_SECRET" if key_id else "ALIBABA_CLOUD_ACCESS_KEY_ID"
            raise ValueError(f"{missing} is not set: set both the ID and the secret of the access key, or neither")
        return self

    @property
    def qps(self) -> Mapping[str, float]:
        """The account's quota for each action, in calls per second."""
        return {action: getattr(self, _setting_of(action)) for action in catalog.ACTIONS}

    @property
    def trusted_networks(self) -> tuple[IpNetwork, ...]:
        """The networks of ``trusted_proxies``."""
        return _parse_networks(self.trusted_proxies)

    @property
    def endpoint(self) -> str:
        """The API's URL."""
        return self.cloud_endpoint or f"https://{regions.endpoint(self.cloud_region)}"

    @cached_property
    def broker_host(self) -> str:
        """The host of the broker for devices."""
        return self.mqtt_host or f"{self.cloud_instance_id}.mqtt.aliyuncs.com"

    @cached_property
    def mqtt_username(self) -> str:
        """The MQTT user name of a device with a token."""
        return f"Token|{self.mqtt_access_key_id or self.alibaba_cloud_access_key_id}|{self.cloud_instance_id}"


def _read_secret(annotation: object, variable: str, path: Path) -> str:
    if not (isinstance(annotation, type) and issubclass(annotation, Secret)):
        raise Misconfigured(f"{variable}_FILE: only a secret may come from a file: set {variable} itself")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{variable}_FILE: cannot read {path}: {error}") from error


def _web_address(text: str) -> SplitResult:
    """Split an https URL, or an http URL of a loopback address. Raises ``ValueError`` for anything else."""
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise ValueError(f"is not a URL ({error}): write it as https://HOST") from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("is not a URL: write it as https://HOST")
    try:
        wrong = url.port == 0 or url.netloc.endswith(":")
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError("must have a port from 1 to 65535, or none")
    if url.scheme == "http" and not _is_loopback(url.hostname):
        # Answers and parameters contain tokens: anyone on the way could read them.
        raise ValueError(f"must begin with https://, because {url.hostname} is not a loopback address")
    return url


def _check_written_as_browsers_do(text: str, url: SplitResult) -> None:
    """Check that an address is written as a browser writes it in ``Origin`` (RFC 6454 section 6.1).

    The console compares it with ``Origin`` to recognize its own forms, and its scheme decides whether cookies are only
    for https. Raises ``ValueError``.
    """
    if not text.isascii():
        raise ValueError("must be ASCII: write the host name as xn--...")
    host = f"[{url.hostname}]" if ":" in str(url.hostname) else url.hostname
    port = "" if url.port in {None, _DEFAULT_PORTS[url.scheme]} else f":{url.port}"
    if text != f"{url.scheme}://{host}{port}":
        raise ValueError(f"must be written as browsers write it: {url.scheme}://{host}{port}")


def _parse_networks(text: str) -> tuple[IpNetwork, ...]:
    """Read comma-separated addresses and networks. Raises ``ValueError``, which names the wrong one."""
    try:
        return tuple(parse_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{error}: write addresses as 10.0.0.1 and networks as 10.0.0.0/24") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
