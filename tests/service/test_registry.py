from __future__ import annotations

import pytest

from app.errors import InvalidRequest, NotFound
from app.model.devices import Algorithm, ClientId, Device, methods_of
from app.model.policy_file import parse_policy
from app.model.secrets import ClientSecret
from app.service import verification_keys
from app.service.device_records import narrows
from app.service.registry import Registration, Registry
from app.store.devices import Devices
from app.store.store import Store
from tests.actors import CLI

POLICY = parse_policy(
    b"""
[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/{device_id}/up/#"]

[roles.line]
publish = ["plant/{attr.line}/#"]

[roles.wide]
publish = ["plant/#"]
""",
    "policy.toml",
)


@pytest.fixture
def registry(store: Store, devices: Devices) -> Registry:
    """A registry on a real Valkey."""
    return Registry(devices, lambda: POLICY, store.clock)


@pytest.mark.parametrize(
    ("registration", "complaint"),
    [
        (Registration("plant@@@d1"), "GID_"),
        (Registration("GID_plant@d1"), "GID_group@@@device"),
        (Registration("GID_plant@@@a/b"), "invalid device ID"),
        (Registration("GID_plant@@@" + "x" * 60), "64"),
        (Registration("GID_other@@@d1"), "no role"),
        (Registration("GID_plant@@@d1", role="ghost"), "ghost"),
        (Registration("GID_plant@@@d1", secret=ClientSecret("x" * 31)), "31 bytes"),
        (Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, secret=ClientSecret("x" * 32)), "public key"),
        (Registration("GID_plant@@@d1", public_key="x"), "ES256, EdDSA or RS256"),
        (Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, public_key="x"), "not a valid public key"),
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
        await registry.add_device(registration, actor=CLI)
    assert await store.requests.command("KEYS", "{s*") == []


async def test_a_private_key_is_never_taken(registry: Registry) -> None:
    """Pasting the wrong half is told as that, and the key is not repeated."""
    private, public = verification_keys.new_pair(Algorithm.ES256)
    with pytest.raises(InvalidRequest, match="must not leave its device") as caught:
        await registry.add_device(
            Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, public_key=private.reveal()), actor=CLI
        )
    assert private.reveal()[40:60] not in str(caught.value)
    for algorithm in (Algorithm.EDDSA, Algorithm.RS256):
        with pytest.raises(InvalidRequest, match="does not fit"):
            await registry.add_device(
                Registration("GID_plant@@@d1", algorithm=algorithm, public_key=public.reveal()), actor=CLI
            )
    await registry.add_device(
        Registration("GID_plant@@@d1", algorithm=Algorithm.ES256, public_key=public.reveal()), actor=CLI
    )
    assert await registry.public_key("GID_plant@@@d1") == public


async def test_a_secret_is_made_and_shown_once(registry: Registry) -> None:
    """What is made here is returned by the call that made it and by no other."""
    added = await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
    assert added.secret is not None
    assert len(added.secret.reveal()) >= 43
    assert added.secret.reveal() not in repr(added)
    given = await registry.add_device(Registration("GID_plant@@@d2", secret=ClientSecret("x" * 32)), actor=CLI)
    assert (given.secret, given.private_key) == (None, None)
    assert await registry.public_key("GID_plant@@@d1") is None


async def test_a_device_is_added_once(registry: Registry) -> None:
    """A second registration of one client ID is refused and changes nothing."""
    added = await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
    with pytest.raises(InvalidRequest, match="registered already"):
        await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
    assert (await registry.get_device("GID_plant@@@d1")).epoch == added.device.epoch


async def test_every_change_raises_the_epoch(registry: Registry) -> None:
    """Nothing begun before a change is handed out after it, whatever the change."""
    epochs = [int((await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)).device.epoch)]
    for change in (registry.disable_device, registry.enable_device, registry.rotate_key, registry.revoke_device):
        await change("GID_plant@@@d1", actor=CLI)
        epochs.append(int((await registry.get_device("GID_plant@@@d1")).epoch))
    assert epochs == sorted(set(epochs))


async def test_what_is_not_there_is_told(registry: Registry) -> None:
    """No verb invents a device."""
    with pytest.raises(NotFound):
        await registry.get_device("GID_plant@@@nobody")
    for verb in (
        registry.disable_device,
        registry.enable_device,
        registry.rotate_key,
        registry.remove_device,
        registry.revoke_device,
    ):
        with pytest.raises(NotFound, match="not registered"):
            await verb("GID_plant@@@nobody", actor=CLI)


async def test_all_devices_are_listed(registry: Registry) -> None:
    """Devices of every shard are found, and a removed one no more."""
    names = {f"GID_plant@@@d{number}" for number in range(100)}
    for name in names:
        await registry.add_device(Registration(name), actor=CLI)
    await registry.remove_device("GID_plant@@@d7", actor=CLI)
    assert {device.client_id async for device in registry.iterate_devices()} == names - {"GID_plant@@@d7"}


async def test_a_search_finds_every_device_that_has_the_text_in_its_client_id(registry: Registry) -> None:
    """Whatever its case and its shard, page by page, each once; the one that is meant exactly comes first."""
    for number in range(120):
        await registry.add_device(Registration(f"GID_plant@@@{'Pump' if number % 3 == 0 else 'd'}-{number}"), actor=CLI)
    found: list[str] = []
    cursor = ""
    while True:
        page = await registry.search_devices("pump-", cursor, 7)
        found += [device.client_id for device in page.devices]
        assert len(page.devices) <= 7
        cursor = page.next_cursor
        if not cursor:
            break
    assert sorted(found) == sorted(f"GID_plant@@@Pump-{number}" for number in range(0, 120, 3))

    first = (await registry.search_devices("GID_plant@@@d-1", "", 50)).devices
    assert first[0].client_id == "GID_plant@@@d-1"
    assert len(first) == len({device.client_id for device in first}) > 5


async def test_a_search_gives_up_after_its_time_and_goes_on_where_it_was(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little time there is, each page gets further, and the whole finds everything."""
    monkeypatch.setattr("app.service.registry.SEARCH_BUDGET_S", 0.0)
    names = {f"GID_plant@@@d{number}" for number in range(30)}
    for name in names:
        await registry.add_device(Registration(name), actor=CLI)
    found: set[str] = set()
    cursors = [""]
    while cursors == [""] or cursors[-1]:
        page = await registry.search_devices("plant@@@d", cursors[-1])
        found |= {device.client_id for device in page.devices}
        cursors.append(page.next_cursor)
    assert found == names
    assert len(cursors) == len(set(cursors[1:])) + 1 > 5
    assert await registry.count_group("GID_plant") != (30, True)


@pytest.mark.parametrize("part", ["", "x" * 65, "x" * 10_000])
async def test_what_no_client_id_can_hold_is_not_searched_for(registry: Registry, part: str) -> None:
    """A search for nothing, or for more than 64 characters, is refused."""
    with pytest.raises(InvalidRequest, match="1 to 64"):
        await registry.search_devices(part)


async def test_the_devices_of_a_group_are_counted(registry: Registry) -> None:
    """Only those with that very group ID."""
    for client_id in ("GID_plant@@@a", "GID_plant@@@b", "GID_plants@@@a", "GID_other@@@GID_plant@@@a"):
        await registry.add_device(Registration(client_id, role="line", attributes={"line": "a"}), actor=CLI)
    assert await registry.count_group("GID_plant") == (2, True)
    assert await registry.count_group("GID_nobody") == (0, True)


async def test_a_record_is_changed_and_its_key_stays(registry: Registry, devices: Devices) -> None:
    """Role, attributes and note are replaced; an old key in grace stays good, and the epoch is raised."""
    await registry.add_device(Registration("GID_plant@@@d1", note="old"), actor=CLI)
    await registry.rotate_key("GID_plant@@@d1", grace_s=60, actor=CLI)
    before = await devices.read_device("GID_plant@@@d1")
    assert before is not None
    device, _ = await registry.update_device(
        "GID_plant@@@d1", role="line", attributes={"line": "l1"}, note="new", actor=CLI
    )
    after = await devices.read_device("GID_plant@@@d1")
    assert after is not None
    assert (after.key, after.previous) == (before.key, before.previous)
    assert after.device == device
    assert (device.role, device.attributes, device.note) == ("line", {"line": "l1"}, "new")
    assert int(device.epoch) > int(before.device.epoch)


async def test_a_change_that_changes_nothing_is_none(registry: Registry) -> None:
    """A form that is sent twice raises no epoch the second time."""
    await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
    first, _ = await registry.update_device("GID_plant@@@d1", role="", attributes={"line": "a"}, note="n", actor=CLI)
    second, revoked = await registry.update_device(
        "GID_plant@@@d1", role="", attributes={"line": "a"}, note="n", actor=CLI
    )
    assert (first, 0) == (second, revoked)


@pytest.mark.parametrize(
    ("role", "attributes", "note", "complaint"),
    [
        ("ghost", {}, "", "ghost"),
        ("line", {"line": "a/b"}, "", "attribute line"),
        ("line", {"<b>": "a"}, "", "name"),
        ("line", {"line": "a"}, "two\nlines", "note"),
        ("line", {"line": "a"}, "x" * 201, "note"),
        ("line", {"line": "a"}, "\x1b[31m", "note"),
    ],
)
async def test_a_wrong_change_is_refused(
    registry: Registry, role: str, attributes: dict[str, str], note: str, complaint: str
) -> None:
    """As at registering; the record stays."""
    added = await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
    with pytest.raises(InvalidRequest, match=complaint):
        await registry.update_device("GID_plant@@@d1", role=role, attributes=attributes, note=note, actor=CLI)
    assert await registry.get_device("GID_plant@@@d1") == added.device
    with pytest.raises(NotFound):
        await registry.update_device("GID_plant@@@nobody", role="", attributes={}, note="", actor=CLI)


def record(role: str, attributes: dict[str, str], note: str = "") -> Device:
    """A record of one device."""
    client_id = ClientId("GID_plant@@@d1")
    return Device(client_id, Algorithm.HS256, methods_of(Algorithm.HS256), role, attributes, note=note)


@pytest.mark.parametrize(
    ("old", "new", "narrower"),
    [
        (record("", {}), record("", {}, "another note"), False),
        (record("", {}), record("sensor", {}), False),  # by match or by name: the same role
        (record("", {}), record("", {"line": "a"}), False),  # an attribute that no template takes
        (record("", {}), record("wide", {}), False),
        (record("wide", {}), record("", {}), True),
        (record("", {}), record("line", {"line": "a"}), True),
        (record("line", {"line": "a"}), record("line", {"line": "b"}), True),
        (record("line", {"line": "a"}), record("line", {}), True),  # no grant any more
        (record("line", {}), record("line", {"line": "a"}), True),  # whatever it holds, it is of another time
        (record("line", {}), record("line", {}, "another note"), False),
    ],
)
def test_a_change_is_narrower_if_it_takes_a_permission_away(old: Device, new: Device, *, narrower: bool) -> None:
    """Then, and only then, what the device holds must go."""
    assert narrows(old, new, POLICY) is narrower
