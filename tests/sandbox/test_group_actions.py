"""Groups (guide chapter 11), and what they mean to clients."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from app.sandbox.server import SandboxConfig, start_sandbox
from tests.sandbox.caller import Caller
from tests.sandbox.device import Device

Connect = Callable[..., Awaitable[Device]]

NOT_AUTHORIZED = 135


async def listed(cloud: Caller) -> list[str]:
    """Return the group IDs in the order they are listed."""
    return [row["GroupId"] for row in (await cloud.call("ListGroupId")).json["Data"]]


async def test_a_group_lives_once(cloud: Caller) -> None:
    """A group is created once, listed first, deleted once, and may be created again; names are case-sensitive."""
    initial = await listed(cloud)
    for action, group, code in (
        ("DeleteGroupId", "GID_new", "ResourcePermissionCheckFailed"),
        ("CreateGroupId", "GID_new", "OK"),
        ("CreateGroupId", "GID_new", "GroupIdAlreadyExsited"),
        ("CreateGroupId", "GID_NEW", "OK"),
        ("DeleteGroupId", "GID_new", "OK"),
        ("DeleteGroupId", "GID_new", "ResourcePermissionCheckFailed"),
        ("CreateGroupId", "GID_new", "OK"),
    ):
        assert (await cloud.call(action, GroupId=group)).code == code
    assert await listed(cloud) == ["GID_new", "GID_NEW", *initial]


async def test_a_name_is_given_once(cloud: Caller) -> None:
    """Of many simultaneous calls that create one group, one succeeds, and the group exists once."""
    replies = await asyncio.gather(*(cloud.call("CreateGroupId", GroupId="GID_new") for _ in range(8)))
    assert sorted(reply.code for reply in replies) == ["GroupIdAlreadyExsited"] * 7 + ["OK"]
    assert (await listed(cloud)).count("GID_new") == 1


async def test_times_are_those_of_the_sandbox_clock(cloud: Caller) -> None:
    """CreateTime and UpdateTime are milliseconds of the clock that a rehearsal may have moved."""
    await cloud.move_clock(600)
    now_ms = (await cloud.control("GET", "clock"))["now_ms"]
    await cloud.call("CreateGroupId", GroupId="GID_new")
    row = (await cloud.call("ListGroupId")).json["Data"][0]
    assert now_ms <= row["CreateTime"] == row["UpdateTime"] <= now_ms + 5000


async def test_a_client_of_an_unknown_group_cannot_connect(cloud: Caller, connect: Connect) -> None:
    """A client ID with valid tokens cannot connect until its group exists."""
    password = f"R|{await cloud.token('R', 'a/#')}"
    assert (await connect(password, "GID_new@@@d1")).code == NOT_AUTHORIZED
    await cloud.call("CreateGroupId", GroupId="GID_new")
    assert (await connect(password, "GID_new@@@d1")).code == 0


async def test_deleting_a_group_ends_its_clients(cloud: Caller, connect: Connect) -> None:
    """Its clients get notice -1 and are disconnected without their wills; sessions and credentials are deleted.

    The clients of a group whose name merely begins alike are not affected.
    """
    password = f"RW|{await cloud.token('R,W', 'a/#')}"
    await cloud.call("CreateGroupId", GroupId="GID_plant2")
    neighbor = await connect(password, "GID_plant2@@@d1")
    await neighbor.subscribe("a/#", 1)
    device = await connect(password, "GID_plant@@@d1", clean=False, will=("a/will", "from beyond"))
    await device.subscribe("a/#", 1)
    away = await connect(password, "GID_plant@@@d2", clean=False)
    await away.close()
    registered = await cloud.call("RegisterDeviceCredential", ClientId="GID_plant@@@d1")
    assert (await cloud.call("DeleteGroupId", GroupId="GID_plant")).code == "OK"
    await device.cut()
    assert [notice["code"] for notice in device.notices()] == [-1]
    assert (await connect(password, "GID_plant@@@d1", clean=False)).code == NOT_AUTHORIZED
    get = await cloud.call("GetDeviceCredential", ClientId="GID_plant@@@d1")
    assert get.code == "PermissionCheckFailed"
    await cloud.call("CreateGroupId", GroupId="GID_plant")
    for name in ("d1", "d2"):
        back = await connect(password, f"GID_plant@@@{name}", clean=False)
        assert (back.code, back.session_present) == (0, False)
    assert registered.code == "OK"
    assert (await cloud.call("GetDeviceCredential", ClientId="GID_plant@@@d1")).code == "ParameterCheckFailed"
    assert await neighbor.publish("a/x", "last")
    await neighbor.got(b"last")
    assert neighbor.payloads() == [b"last"]


async def test_initial_groups_are_created_once(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """The groups of a start exist at once; a deleted one is not created again; one that is added later is created."""
    seen = []
    for groups in (("GID_one", "GID_two"), ("GID_one", "GID_two", "GID_three"), ("GID_one",)):
        sandbox = await start_sandbox(replace(config, groups=groups))
        cloud = Caller(http, f"http://127.0.0.1:{sandbox.port}")
        seen.append(await listed(cloud))
        await cloud.call("DeleteGroupId", GroupId="GID_one")
        await sandbox.stop()
    assert seen == [["GID_two", "GID_one"], ["GID_three", "GID_two"], ["GID_three", "GID_two"]]


async def test_another_instance_has_groups_of_its_own(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """A sandbox that plays another instance on the same database starts with its own groups."""
    for instance in ("post-cn-test", "post-cn-next"):
        sandbox = await start_sandbox(replace(config, instance_id=instance, groups=("GID_one",)))
        reply = await Caller(http, f"http://127.0.0.1:{sandbox.port}").call("ListGroupId", InstanceId=instance)
        assert [(row["InstanceId"], row["GroupId"]) for row in reply.json["Data"]] == [(instance, "GID_one")]
        await sandbox.stop()


@pytest.mark.parametrize(("action", "code"), [("Create", "CreateGroupIdError"), ("Delete", "DeleteGroupIdError")])
async def test_a_database_that_fails(
    config: SandboxConfig, http: aiohttp.ClientSession, action: str, code: str
) -> None:
    """A change that cannot be stored is refused with its own code, and has no effect."""
    with sqlite3.connect(config.database) as database:
        database.execute(
            "CREATE TABLE groups (instance_id, group_id, created_at_ms, PRIMARY KEY (instance_id, group_id))"
        )
        database.execute("INSERT INTO groups VALUES ('post-cn-test', 'GID_old', 1)")
        for event in ("INSERT", "DELETE"):
            database.execute(
                f"CREATE TRIGGER no_{event} BEFORE {event} ON groups BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
    database.close()
    sandbox = await start_sandbox(replace(config, groups=()))
    cloud = Caller(http, f"http://127.0.0.1:{sandbox.port}")
    reply = await cloud.call(f"{action}GroupId", GroupId="GID_old" if action == "Delete" else "GID_new")
    assert (reply.status, reply.code) == (500, code)
    assert await listed(cloud) == ["GID_old"]
    await sandbox.stop()
