from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from typing import Any

import pytest
from alibabacloud_onsmqtt20200420 import models
from alibabacloud_onsmqtt20200420.client import Client

from app.cli.call import parse_parameters
from app.rpc.catalog import ACTIONS, SECRETS
from app.web.console import samples
from tests.sandbox.sdks import FORGIVING, collected
from tests.web.conftest import ACCESS_KEY_ID, ACCESS_KEY_SECRET, INSTANCE_ID, OwnCloud

__all__ = ["collected"]

pytestmark = FORGIVING


@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
@pytest.mark.parametrize("value", ["plain", 'it\'s "quoted"\\', "two\nlines", "--json", "ü", "$(id) `id` %s {0}"])
def test_the_samples_are_the_same_call(action: Any, value: str) -> None:
    """Python compiles and names what the SDK has; the command line reads back what was sent; neither has a secret."""
    given = {
        name: value
        for each in action.parameters
        for name in ([f"{each.name}.1", f"{each.name}.2"] if each.kind == "RepeatList" else [each.name])
    }
    given |= {name: "1790000000000" for name in given if name == "ExpireTime"}
    source = samples.python(action, given, "http://127.0.0.1:8090/", "cn-hangzhou", temporary=True)
    compile(source, "sample", "exec")
    [request] = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("Request")
    ]
    assert isinstance(request.func, ast.Attribute)
    model = getattr(models, request.func.attr)
    assert {keyword.arg for keyword in request.keywords} <= set(inspect.signature(model).parameters)
    assert re.search(r"client\.(\w+)\(request\)", source)[1] in dir(Client)  # type: ignore[index]
    told = {keyword.arg: ast.unparse(keyword.value) for keyword in request.keywords}
    assert ("token" in told) == (told.get("token") == "os.environ['TOKEN']")
    assert told["instance_id"] == repr(value)
    if "expire_time" in told:
        assert told["expire_time"] == "1790000000000"
    words = shlex.split(samples.command(action, given, xml=True))
    assert words[:5] == ["python", "-m", "app", "call", action.name]
    assert words[-2:] == ["--format", "xml"]
    read = parse_parameters(action, words[5:-2], anyway=True)
    assert read == {name: f"${name.upper()}" if name in SECRETS else text for name, text in given.items()}


async def test_the_python_sample_runs(
    cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, with the access key and the token in the environment."""
    for name, value in (("ID", ACCESS_KEY_ID), ("SECRET", ACCESS_KEY_SECRET)):
        monkeypatch.setenv(f"ALIBABA_CLOUD_ACCESS_KEY_{name}", value)
    monkeypatch.setenv("TOKEN", "unknown")
    url = f"{cloud.url}/"
    for action, given, answer in (
        ("QueryToken", {"Token": "x"}, "'TokenStatus': False"),
        ("BatchQuerySessionByClientIds", {"ClientIdList.1": "GID_plant@@@a"}, "'OnlineStatus': False"),
    ):
        parameters = {"InstanceId": INSTANCE_ID, **given}
        source = samples.python(ACTIONS[action], parameters, url, "cn-hangzhou", temporary=False)
        await asyncio.to_thread(exec, compile(source, "sample", "exec"), {})
        assert answer in capsys.readouterr().out
