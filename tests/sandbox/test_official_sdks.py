"""Both official Python SDKs drive every action, with both kinds of signature, and understand every error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from alibabacloud_onsmqtt20200420 import models
from alibabacloud_onsmqtt20200420.client import Client
from alibabacloud_tea_openapi.exceptions import ClientException, ServerException
from alibabacloud_tea_openapi.models import Config as SdkConfig
from aliyunsdkcore.acs_exception.exceptions import ServerException as ClassicException
from aliyunsdkcore.client import AcsClient
from aliyunsdkonsmqtt.request.v20200420 import ApplyTokenRequest, QueryTokenRequest, RevokeTokenRequest

from app.rpc.codes import ERRORS, GATEWAY_ERRORS
from app.sandbox.server import Sandbox
from tests.sandbox.caller import INSTANCE, KEYS, Caller, in_ms

pytestmark = [
    # Both SDKs leave their sockets to the garbage collector, and the classic one brings an old copy of requests.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]

Kind = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Call an action with the SDK's own spelling of parameters; returns the answer's body, raises the SDK's exception."""


def newer(sandbox: Sandbox, secret: str = KEYS["ak-one"].reveal(), **options: str) -> Client:
    """Return a client of the newer SDK."""
    return Client(
        SdkConfig(
            access_key_id="ak-one",
            access_key_secret=secret,
            endpoint=f"127.0.0.1:{sandbox.port}",
            protocol="http",
            **options,
        )
    )


REQUESTS = {
    "ApplyToken": (models.ApplyTokenRequest, "apply_token"),
    "QueryToken": (models.QueryTokenRequest, "query_token"),
    "RevokeToken": (models.RevokeTokenRequest, "revoke_token"),
}
CLASSIC = {
    "ApplyToken": ApplyTokenRequest.ApplyTokenRequest,
    "QueryToken": QueryTokenRequest.QueryTokenRequest,
    "RevokeToken": RevokeTokenRequest.RevokeTokenRequest,
}
SNAKE = {
    "Actions": "actions",
    "ExpireTime": "expire_time",
    "InstanceId": "instance_id",
    "Resources": "resources",
    "Token": "token",
}


async def call_newer(client: Client, action: str, given: dict[str, Any], *, sync: bool) -> dict[str, Any]:
    """Call through the newer SDK."""
    kind, method = REQUESTS[action]
    request = kind(**{SNAKE[name]: value for name, value in given.items()})
    if sync:
        response = await asyncio.to_thread(getattr(client, method), request)
    else:
        response = await getattr(client, f"{method}_async")(request)
    assert response.status_code == 200
    body: dict[str, Any] = response.body.to_map()
    return body


async def call_classic(client: AcsClient, port: int, action: str, given: dict[str, Any]) -> dict[str, Any]:
    """Call through the classic SDK."""
    request = CLASSIC[action]()
    request.set_endpoint(f"127.0.0.1:{port}")
    for name, value in given.items():
        getattr(request, f"set_{name}")(value)
    body: dict[str, Any] = json.loads(await asyncio.to_thread(client.do_action_with_exception, request))
    return body


@pytest.fixture(params=["acs3-sync", "acs3-async", "v2-sync", "v2-async", "classic"])
def sdk(request: pytest.FixtureRequest, sandbox: Sandbox) -> Kind:
    """Each SDK in each way of signing and calling."""
    if request.param == "classic":
        classic = AcsClient("ak-one", KEYS["ak-one"].reveal(), "cn-hangzhou")
        return lambda action, given: call_classic(classic, sandbox.port, action, given)
    signing, way = request.param.split("-")
    client = newer(sandbox, **({"signature_algorithm": "v2"} if signing == "v2" else {}))
    return lambda action, given: call_newer(client, action, given, sync=way == "sync")


def applying(**change: Any) -> dict[str, Any]:
    """Return the parameters of an ApplyToken."""
    return {
        "Actions": "R,W",
        "ExpireTime": in_ms(3600),
        "InstanceId": INSTANCE,
        "Resources": "a/+,b/~*/#",
        **change,
    }


async def test_every_action(sdk: Kind) -> None:
    """A token is applied for, found good, revoked, and found bad."""
    applied = await sdk("ApplyToken", applying())
    given = {"InstanceId": INSTANCE, "Token": applied["Token"]}
    assert (await sdk("QueryToken", given))["TokenStatus"] is True
    assert set(await sdk("RevokeToken", given)) == {"RequestId"}
    assert (await sdk("QueryToken", given))["TokenStatus"] is False


def code_of(error: Exception) -> str:
    """Return the code as the SDK tells it."""
    return str(error.get_error_code() if isinstance(error, ClassicException) else error.code)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Actions": "X"}, "InvalidParameter.Actions"),
        ({"ExpireTime": 1}, "InvalidParameter.ExpireTime"),
        ({"InstanceId": "other"}, "InstancePermissionCheckFailed"),
        ({"Resources": "b,a"}, "ParameterCheckFailed"),
        ({"Resources": "$SYS/#"}, "InvalidParameter.Resources"),
        ({"Resources": ""}, "MissingResources"),
    ],
)
async def test_refusals(sdk: Kind, change: dict[str, Any], code: str) -> None:
    """A refusal reaches the caller as the SDK's own exception with the cloud's code."""
    with pytest.raises((ClientException, ClassicException)) as caught:
        await sdk("ApplyToken", applying(**change))
    assert code_of(caught.value) == code


async def test_every_error(sandbox: Sandbox, cloud: Caller) -> None:
    """Every code of the catalog, as told by a fault, is raised by both SDKs with its code, status and message."""
    client = newer(sandbox)
    classic = AcsClient("ak-one", KEYS["ak-one"].reveal(), "cn-hangzhou")
    for row in (*ERRORS.values(), *GATEWAY_ERRORS.values()):
        code = row.code.replace("%s", "Resources")
        await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": "error", "code": code, "times": 2})
        with pytest.raises((ClientException, ServerException)) as caught:
            await call_newer(client, "ApplyToken", applying(), sync=False)
        assert (caught.value.code, caught.value.status_code) == (code, row.status)
        assert isinstance(caught.value, ServerException) == (row.status >= 500)
        with pytest.raises(ClassicException) as classically:
            await call_classic(classic, sandbox.port, "ApplyToken", applying())
        assert (classically.value.get_error_code(), classically.value.get_http_status()) == (code, row.status)
        assert classically.value.get_error_msg() == row.message.replace("%s", "Resources" * ("%s" in row.code))


async def test_wrong_secrets(sandbox: Sandbox) -> None:
    """A wrong secret is refused; the classic SDK, which compares strings to sign, tells it as a wrong secret."""
    for options in ({}, {"signature_algorithm": "v2"}):
        with pytest.raises(ClientException) as caught:
            await call_newer(newer(sandbox, "wrong", **options), "ApplyToken", applying(), sync=False)
        assert caught.value.code == "SignatureDoesNotMatch"
    with pytest.raises(ClassicException) as classically:
        await call_classic(AcsClient("ak-one", "wrong", "cn-hangzhou"), sandbox.port, "ApplyToken", applying())
    assert classically.value.get_error_code() == "InvalidAccessKeySecret"
