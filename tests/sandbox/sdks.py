"""Both official Python SDKs as one kind of caller, whatever the action and the way of signing."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from alibabacloud_onsmqtt20200420 import models
from alibabacloud_onsmqtt20200420.client import Client
from alibabacloud_tea_openapi.models import Config as SdkConfig
from aliyunsdkcore.acs_exception.exceptions import ServerException as ClassicException
from aliyunsdkcore.client import AcsClient

from app.sandbox.server import Sandbox
from tests.sandbox.caller import KEYS

Sdk = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Call an action with the guide's spelling of parameters; returns the answer's body, raises the SDK's exception."""

WAYS: Final = ("acs3-sync", "acs3-async", "v2-sync", "v2-async", "classic")
"""Each SDK in each way of signing and calling."""

FORGIVING: Final = [
    # Both SDKs leave their sockets to the garbage collector, and the classic one brings an old copy of requests.
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]
"""Marks of a module that uses the SDKs."""

_SECRET: Final = KEYS["ak-one"].reveal()


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    """Collect what the SDKs left while their warnings are still forgiven."""
    yield
    gc.collect()


def snake(name: str) -> str:
    """Return the newer SDK's spelling of a name."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def newer(sandbox: Sandbox, secret: str = _SECRET, **options: str) -> Client:
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


def classic(secret: str = _SECRET) -> AcsClient:
    """Return a client of the classic SDK."""
    return AcsClient("ak-one", secret, "cn-hangzhou")


async def call_newer(client: Client, action: str, given: dict[str, Any], *, sync: bool = False) -> dict[str, Any]:
    """Call through the newer SDK; the body comes back out of its typed model, which keeps only what it knows."""
    request = getattr(models, f"{action}Request")(**{snake(name): value for name, value in given.items()})
    if sync:
        response = await asyncio.to_thread(getattr(client, snake(action)), request)
    else:
        response = await getattr(client, f"{snake(action)}_async")(request)
    assert response.status_code == 200
    response.body.validate()
    assert type(response.body).__name__ == f"{action}ResponseBody"
    body: dict[str, Any] = response.body.to_map()
    return body


async def call_classic(client: AcsClient, port: int, action: str, given: dict[str, Any]) -> dict[str, Any]:
    """Call through the classic SDK."""
    module = importlib.import_module(f"aliyunsdkonsmqtt.request.v20200420.{action}Request")
    request = getattr(module, f"{action}Request")()
    request.set_endpoint(f"127.0.0.1:{port}")
    for name, value in given.items():
        getattr(request, f"set_{name}s" if isinstance(value, list) else f"set_{name}")(value)
    body: dict[str, Any] = json.loads(await asyncio.to_thread(client.do_action_with_exception, request))
    return body


def sdk_of(way: str, sandbox: Sandbox) -> Sdk:
    """Return one of ``WAYS`` to call ``sandbox``."""
    if way == "classic":
        old = classic()
        return lambda action, given: call_classic(old, sandbox.port, action, given)
    signing, _, kind = way.partition("-")
    client = newer(sandbox, **({"signature_algorithm": "v2"} if signing == "v2" else {}))
    return lambda action, given: call_newer(client, action, given, sync=kind == "sync")


def code_of(error: Exception) -> str:
    """Return the error code of an SDK's exception."""
    return str(error.get_error_code() if isinstance(error, ClassicException) else error.code)  # type: ignore[attr-defined]
