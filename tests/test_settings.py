from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.errors import Misconfigured
from app.model.ip_addresses import contains, parse_address
from app.rpc.catalog import ACTIONS
from app.settings import Settings
from tests.processes import ROOT

RIGHT = {
    "ISSUER_URL": "https://tokens.example/",
    "REDIS_URL": "redis://:very-secret@host",
    "POLICY_FILE": "policy.toml",
    "SEALING_KEYS": "k1:very-secret",
    "CLOUD_INSTANCE_ID": "mqtt-x",
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "ak",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "very-secret",
}


def test_defaults_follow_the_instance() -> None:
    """With the least that must be set, endpoint, broker and user name are the real cloud's."""
    settings = Settings.load(RIGHT)
    assert settings.issuer_url == "https://tokens.example"
    assert settings.endpoint == "https://onsmqtt.cn-hangzhou.aliyuncs.com"
    assert settings.broker_host == "mqtt-x.mqtt.aliyuncs.com"
    assert settings.mqtt_username == "Token|ak|mqtt-x"
    assert (settings.mqtt_port, settings.mqtt_tls, settings.host) == (8883, True, "127.0.0.1")


def test_every_action_has_a_quota_of_its_own() -> None:
    """The default is the catalog's, and the setting is named after the action."""
    assert Settings.load(RIGHT).qps == {action.name: action.qps for action in ACTIONS.values()}
    settings = Settings.load(RIGHT | {"APPLY_TOKEN_QPS": "500", "BATCH_QUERY_SESSION_BY_CLIENT_IDS_QPS": "2.5"})
    assert (settings.qps["ApplyToken"], settings.qps["BatchQuerySessionByClientIds"]) == (500, 2.5)
    far = Settings.load(RIGHT | {"APPLY_TOKEN_QPS": "1e9", "EGRESS_QPS": "1e9"})
    assert (far.qps["ApplyToken"], far.egress_qps) == (1e9, 1e9)


def test_the_access_key_may_be_left_out_whole() -> None:
    """Without it the other sources of credentials are tried; half a key is refused."""
    without = {name: value for name, value in RIGHT.items() if not name.startswith("ALIBABA_CLOUD_")}
    uri = "http://127.0.0.1:1/very-secret"
    settings = Settings.load({**without, "MQTT_ACCESS_KEY_ID": "lasting", "ALIBABA_CLOUD_CREDENTIALS_URI": uri})
    assert settings.mqtt_username == "Token|lasting|mqtt-x"
    assert "very-secret" not in repr(settings)


def test_no_secret_is_shown() -> None:
    """Neither repr nor str of the settings holds a secret."""
    settings = Settings.load(RIGHT)
    assert "very-secret" not in f"{settings!r} {settings} {settings.model_dump()}"


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_each_missing_setting_is_named(name: str) -> None:
    """The complaint is one line that begins with the setting's name."""
    with pytest.raises(Misconfigured) as caught:
        Settings.load({key: value for key, value in RIGHT.items() if key != name})
    assert str(caught.value).startswith(f"{name} is not set")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("MQTT_PORT", "0"),
        ("MQTT_TLS", "perhaps"),
        ("ISSUER_URL", "tokens.example"),
        ("ISSUER_URL", "http://tokens.example"),
        ("ISSUER_URL", "https://u:p@tokens.example"),
        ("ISSUER_URL", "https://tokens.example?x=1"),
        ("ISSUER_URL", "https://tokens.example:xx"),
        ("ISSUER_URL", "https://tokens.example:70000"),
        ("ISSUER_URL", "https://tokens.example:0"),
        ("ISSUER_URL", "https://tokens.example:"),
        ("ISSUER_URL", "https://[::1"),
        ("ISSUER_URL", "HTTPS://tokens.example"),
        ("ISSUER_URL", "https://Tokens.example"),
        ("ISSUER_URL", "https://tokens.example:443"),
        ("ISSUER_URL", "http://127.0.0.1:80"),
        ("ISSUER_URL", "https://b\u00fccher.example"),
        ("CLOUD_ENDPOINT", "https://onsmqtt.example:xx"),
        ("CLOUD_ENDPOINT", "http://onsmqtt.example"),
        ("CLOUD_ENDPOINT", "onsmqtt.example"),
        ("CLOUD_REGION", "mars-north-1"),
        ("APPLY_TOKEN_QPS", "0"),
        ("UN_REGISTER_DEVICE_CREDENTIAL_QPS", "many"),
        ("EGRESS_GROUP", "two words"),
        ("DEVICE_MAX_LIVE_TOKENS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_each_wrong_setting_is_named(name: str, value: str) -> None:
    """The complaint names the setting and shows no other's value."""
    with pytest.raises(Misconfigured, match=f"^{name}") as caught:
        Settings.load(RIGHT | {name: value})
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "PORT: 'http' is not a whole number"),
        ("PORT", "70000", "PORT: '70000' is too large: the maximum is 65535"),
        ("MQTT_PORT", "0", "MQTT_PORT: '0' is too small: the minimum is 1"),
        ("MQTT_TLS", "perhaps", "MQTT_TLS: 'perhaps' is not valid: use true or false"),
        ("APPLY_TOKEN_QPS", "many", "APPLY_TOKEN_QPS: 'many' is not a number"),
        ("APPLY_TOKEN_QPS", "0", "APPLY_TOKEN_QPS: '0' is too small: the minimum is 0.01"),
        ("REVOKE_TOKEN_QPS", "-1", "REVOKE_TOKEN_QPS: '-1' is too small: the minimum is 0.01"),
        ("EGRESS_QPS", "0", "EGRESS_QPS: '0' is too small: the minimum is 0.01"),
        ("EGRESS_QPS", "1e10", "EGRESS_QPS: '1e10' is too large: the maximum is 1e+09"),
        ("EGRESS_QPS", "inf", "EGRESS_QPS: 'inf' is not a finite number"),
        ("QUERY_TOKEN_QPS", "nan", "QUERY_TOKEN_QPS: 'nan' is not a finite number"),
        ("CLOUD_JITTER_MS", "-1", "CLOUD_JITTER_MS: '-1' is too small: the minimum is 0"),
        ("CLOUD_JITTER_MS", "1001", "CLOUD_JITTER_MS: '1001' is too large: the maximum is 1000"),
        ("CLOUD_JITTER_MS", "30ms", "CLOUD_JITTER_MS: '30ms' is not a whole number"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: 'loud' is not valid: use 'debug', 'info', 'warning' or 'error'"),
        ("ISSUER_URL", "https://t.example/x", "ISSUER_URL: must have no path, but has '/x'"),
    ],
)
def test_a_complaint_says_what_was_wrong_and_what_is_expected(name: str, value: str, message: str) -> None:
    """In the words of this program, not in those of the library that checks."""
    with pytest.raises(Misconfigured) as caught:
        Settings.load(RIGHT | {name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize("document", ["deploy/README.md", "deploy/haproxy.cfg"])
def test_what_documents_say_of_a_setting_in_seconds_is_its_default(document: str) -> None:
    """``NAME (10 s)`` in the documents of the deployment is the default of that setting."""
    said = re.findall(r"([A-Z_]+_S)`?(?: of the instances)? \((\d+) s", (ROOT / document).read_text())
    assert said
    assert {name: float(seconds) for name, seconds in said} == {
        name: Settings.model_fields[name.lower()].default for name, _ in said
    }


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    """NAME_FILE is read, stripped of its line end, and complained about by name."""
    (tmp_path / "secret").write_text("from-file\n")
    without = {name: value for name, value in RIGHT.items() if name != "SEALING_KEYS"}
    settings = Settings.load(without | {"SEALING_KEYS_FILE": str(tmp_path / "secret")})
    assert settings.sealing_keys.reveal() == "from-file"
    with pytest.raises(Misconfigured, match=r"^SEALING_KEYS_FILE"):
        Settings.load(without | {"SEALING_KEYS_FILE": str(tmp_path / "nothing")})


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    """PORT_FILE is refused."""
    with pytest.raises(Misconfigured, match=r"^PORT_FILE"):
        Settings.load(RIGHT | {"PORT_FILE": str(tmp_path / "port")})


def test_plain_http_is_for_loopback_alone() -> None:
    """Tokens do not travel in the clear, but a laptop needs no certificate."""
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080"):
        assert Settings.load(RIGHT | {"ISSUER_URL": f"http://{host}"}).issuer_url == f"http://{host}"


@pytest.mark.parametrize("proxies", ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "::ffff:0:0/96", "fd00::/8, 10.0.0.0/8"])
def test_a_trusted_proxy_is_recognized_in_either_form(proxies: str) -> None:
    """An IPv4 network that is written in IPv6 would else match no address, as those are read as IPv4."""
    networks = Settings.load(RIGHT | {"TRUSTED_PROXIES": proxies}).trusted_networks
    for peer in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert contains(networks, parse_address(peer))
    assert not contains(networks, parse_address("2001:db8::1"))


@pytest.mark.parametrize("proxies", ["10.0.0.1/8", "::ffff:10.0.0.1/104", "balancer", "10.0.0.0/33"])
def test_a_wrong_trusted_proxy_is_named(proxies: str) -> None:
    """In either form, and with the form to write."""
    with pytest.raises(Misconfigured, match=r"^TRUSTED_PROXIES.*write addresses as"):
        Settings.load(RIGHT | {"TRUSTED_PROXIES": proxies})
