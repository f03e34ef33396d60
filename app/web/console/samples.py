"""A call as others make it: by curl, by this command line, by the cloud's official SDK for Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit

from app.cloud.exchange import Sent
from app.rpc.catalog import SECRETS, Action, Parameter


def curl(url: str, sent: Sent) -> str:
    """Return the very request that was sent, for curl: its nonce is used, so the cloud refuses it a second time."""
    fields = (f"  --data-urlencode {shlex.quote(f'{name}={value}')}" for name, value in sent.parameters.items())
    return " \\\n".join([f"curl -sS {shlex.quote(url)}", *fields])


def command(action: Action, parameters: Mapping[str, str], *, xml: bool) -> str:
    """Return the same call for ``python -m app call``, which signs it again. A token is a variable of the shell."""
    words = [
        f'--{each.name}="${each.name.upper()}"' if each.name in SECRETS else shlex.quote(f"--{each.name}={value}")
        for each in action.parameters
        for value in each.values(parameters)
    ]
    return " ".join(["python -m app call", action.name, *words, *(["--format xml"] if xml else [])])


def python(action: Action, parameters: Mapping[str, str], url: str, region: str, *, temporary: bool) -> str:
    """Return the same call through ``alibabacloud_onsmqtt20200420``; key and token come from the environment."""
    where = urlsplit(url)
    config = [
        ("access_key_id", 'os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"]'),
        ("access_key_secret", 'os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]'),
        *([("security_token", 'os.environ["ALIBABA_CLOUD_SECURITY_TOKEN"]')] if temporary else []),
        ("endpoint", repr(where.netloc)),
        ("region_id", repr(region)),
        *([("protocol", repr(where.scheme))] if where.scheme != "https" else []),
    ]
    # Its models have no RegionId: today's API does without (FACTS 0.2).
    given = [
        (_snake(each.name), _literal(each, values))
        for each in action.parameters
        if each.name != "RegionId" and (values := each.values(parameters))
    ]
    return "\n".join(
        [
            "import os",
            "",
            "from alibabacloud_onsmqtt20200420 import models",
            "from alibabacloud_onsmqtt20200420.client import Client",
            "from alibabacloud_tea_openapi.models import Config",
            "",
            "client = Client(",
            "    Config(",
            *(f"        {name}={value}," for name, value in config),
            "    )",
            ")",
            f"request = models.{action.name}Request(",
            *(f"    {name}={value}," for name, value in given),
            ")",
            f"response = client.{_snake(action.name)}(request)",
            "print(response.body.to_map())",
        ]
    )


def _literal(parameter: Parameter, values: list[str]) -> str:
    if parameter.name in SECRETS:
        return f'os.environ["{parameter.name.upper()}"]'
    if parameter.kind == "RepeatList":
        return repr(values)
    if parameter.kind == "Long" and re.fullmatch("0|[1-9][0-9]{0,18}", values[0], re.ASCII):
        return values[0]
    return repr(values[0])


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
