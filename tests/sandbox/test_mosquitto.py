"""mosquitto's clients get what devices get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.sandbox.server import Sandbox
from tests.sandbox.caller import INSTANCE, Caller
from tests.sandbox.device import USERNAME, eventually
from tests.sandbox.sdks import FORGIVING, sdk_of

pytestmark = FORGIVING


async def run(*command: str) -> tuple[int, str]:
    """Run a command to its end; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_publish_and_subscribe(sandbox: Sandbox, cloud: Caller, need_program: Callable[[str], str]) -> None:
    """mosquitto_pub and mosquitto_sub work with topics of the token's resources, and are disconnected for others."""
    password = f"RW|{await cloud.token('R,W', 'a/#')}"
    pub, sub = need_program("mosquitto_pub"), need_program("mosquitto_sub")

    def common(name: str) -> list[str]:
        return [
            "-h",
            "127.0.0.1",
            "-p",
            str(sandbox.mqtt_port),
            "-u",
            USERNAME,
            "-P",
            password,
            "-i",
            f"GID_plant@@@{name}",
        ]

    assert await run(pub, *common("pub"), "-t", "a/x", "-m", "hello", "-q", "2", "-r") == (0, "")
    assert await run(sub, *common("sub"), "-t", "a/#", "-q", "1", "-C", "1", "-v") == (0, "a/x hello\n")
    code, said = await run(pub, *common("pub"), "-t", "b/x", "-m", "no", "-q", "1")
    assert (code, "connection was lost" in said.lower() or "error" in said.lower()) == (7, True)
    code, said = await run(sub, *common("sub"), "-t", "a/#", "-V", "5", "-C", "1")
    assert code != 0
    assert "unsupported protocol version" in said.lower()


async def test_a_message_from_the_api(sandbox: Sandbox, cloud: Caller, need_program: Callable[[str], str]) -> None:
    """A mosquitto_sub that logged in with a token prints what an official SDK sent by SendMessage."""
    password = f"R|{await cloud.token('R', 'a/#')}"
    user = ["-u", USERNAME, "-P", password, "-i", "GID_plant@@@sub"]
    where = ["-h", "127.0.0.1", "-p", str(sandbox.mqtt_port), "-t", "a/#", "-q", "1", "-c"]
    # First it only subscribes (-E), under a session that stays: so nothing is sent before there is a subscriber.
    assert await run(need_program("mosquitto_sub"), *where, *user, "-E") == (0, "")
    message = {"InstanceId": INSTANCE, "MqttTopic": "a/x", "Payload": "grüße 1+1"}
    await sdk_of("acs3-async", sandbox)("SendMessage", message)
    listening = asyncio.create_task(run(need_program("mosquitto_sub"), *where, *user, "-C", "2", "-v"))
    await eventually(lambda: is_online(cloud, "GID_plant@@@sub"))
    await sdk_of("classic", sandbox)("SendMessage", {**message, "Payload": "live"})
    assert await listening == (0, "a/x grüße 1+1\na/x live\n")


async def is_online(cloud: Caller, client_id: str) -> bool:
    """Ask the sandbox."""
    return bool((await cloud.call("QuerySessionByClientId", ClientId=client_id)).json["OnlineStatus"])
