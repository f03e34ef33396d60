from __future__ import annotations

import pytest

from app.errors import InvalidRequest, NotFound
from app.model.devices import Algorithm
from app.model.policy_file import parse_policy
from app.model.secrets import ClientSecret
from app.service import keys
from app.service.registry import Registration, Registry
from app.store.connection import Store
from app.store.devices import Devices

POLICY = parse_policy(
    b"""
[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/{device_id}/up/#"]

[roles.line]
publish = ["plant/{attr.line}/#"]
""",
    "policy.toml",
)


@pytest.fixture
def registry(store: Store, devices: Devices) -> Registry:
    """A registry on a real Valkey."""
    return Registry(devices, lambda: POLICY, store.clock, by="cli:test")


@pytest.mark.parametrize(
    ("registration", "complaint"),
    [
        (Registration("plant@@@d1"), "GID_"),
        (Registration("GID_plant@d1"), "GID_group@@@device"),
        (Registration("GID_plant@@@a/b"), "device part"),
        (Registration("GID_plant@@@" + "x" * 60), "64"),
        (Registration("GID_other@@@d1"), "no role"),
        (Registration("GID_plant@@@d1", role="ghost"), "ghost"),
        (Registration("GID_plant@@@d1", secret=ClientSecret("x" * 31)), "31 bytes"),
        (Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, secret=ClientSecret("x" * 32)), "public key"),
        (Registration("GID_plant@@@d1", public_key="x"), "ES256, EdDSA or RS256"),
        (Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, public_key="x"), "no PEM"),
        (Registration("GID_plant@@@d1", attributes={"line": "a/b"}), "attribute line"),
        (Registration("GID_plant@@@d1", attributes={"line": "+"}), "attribute line"),
        (Registration("GID_plant@@@d1", attributes={"line": "#"}), "attribute line"),
        (Registration("GID_plant@@@d1", attributes={"line": ""}), "attribute line"),
        (Registration("GID_plant@@@d1", attributes={"a b": "x"}), "name"),
        (Registration("GID_plant@@@d1", attributes={f"a{number}": "x" for number in range(33)}), "32 attributes"),
        (Registration("GID_plant@@@d1", note="two\nlines"), "note"),
    ],
)
async def test_a_wrong_registration_is_refused_and_changes_nothing(
    registry: Registry, store: Store, registration: Registration, complaint: str
) -> None:
    """The refusal says what is wrong; nothing is written."""
    with pytest.raises(InvalidRequest, match=complaint):
        await registry.add(registration)
    assert await store.command("DBSIZE") == 0


async def test_a_private_key_is_never_taken(registry: Registry) -> None:
    """Pasting the wrong half is told as that, and the key is not repeated."""
    private, public = keys.new_pair(Algorithm.ES256)
    with pytest.raises(InvalidRequest, match="never leaves its device") as caught:
        await registry.add(Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, public_key=private.reveal()))
    assert private.reveal()[40:60] not in str(caught.value)
    for algorithm in (Algorithm.EDDSA, Algorithm.RS256):
        with pytest.raises(InvalidRequest, match="not one for"):
            await registry.add(Registration("GID_plant@@@d1", algorithm=algorithm, public_key=public.reveal()))
    await registry.add(Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, public_key=public.reveal()))
    assert await registry.public_key("GID_plant@@@d1") == public


async def test_a_secret_is_made_and_shown_once(registry: Registry) -> None:
    """What is made here is returned by the call that made it and by no other."""
    added = await registry.add(Registration("GID_plant@@@d1"))
    assert added.secret is not None
    assert len(added.secret.reveal()) >= 43
    assert added.secret.reveal() not in repr(added)
    given = await registry.add(Registration("GID_plant@@@d2", secret=ClientSecret("x" * 32)))
    assert (given.secret, given.private_key) == (None, None)
    assert await registry.public_key("GID_plant@@@d1") is None


async def test_a_device_is_added_once(registry: Registry) -> None:
    """A second registration of one client ID is refused and changes nothing."""
    added = await registry.add(Registration("GID_plant@@@d1"))
    with pytest.raises(InvalidRequest, match="registered already"):
        await registry.add(Registration("GID_plant@@@d1"))
    assert (await registry.get("GID_plant@@@d1")).epoch == added.device.epoch


async def test_every_change_raises_the_epoch(registry: Registry) -> None:
    """Nothing begun before a change is handed out after it, whatever the change."""
    epochs = [int((await registry.add(Registration("GID_plant@@@d1"))).device.epoch)]
    for change in (registry.disable, registry.enable, registry.rotate, registry.revoke):
        await change("GID_plant@@@d1")
        epochs.append(int((await registry.get("GID_plant@@@d1")).epoch))
    assert epochs == sorted(set(epochs))


async def test_what_is_not_there_is_told(registry: Registry) -> None:
    """No verb invents a device."""
    for verb in (registry.get, registry.disable, registry.enable, registry.rotate, registry.remove, registry.revoke):
        with pytest.raises(NotFound, match="not registered"):
            await verb("GID_plant@@@nobody")


async def test_all_devices_are_listed(registry: Registry) -> None:
    """Devices of every shard are found, and a removed one no more."""
    names = {f"GID_plant@@@d{number}" for number in range(100)}
    for name in names:
        await registry.add(Registration(name))
    await registry.remove("GID_plant@@@d7")
    assert {device.client_id async for device in registry.all()} == names - {"GID_plant@@@d7"}
