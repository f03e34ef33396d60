"""A store on a real Valkey, with a registered device."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.model.devices import Algorithm, ClientId, Device, methods_of
from app.model.secrets import Secret
from app.store import quota
from app.store.devices import Devices
from app.store.index import TokenIndex
from app.store.jobs import JobStore
from app.store.operators import Operators
from app.store.revocations import RevocationQueue
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from app.store.tokens import Tokens
from tests.sealing_keys import new_key_text
from tests.store.events import ADDED
from tests.store.fleet import Fleet
from tests.store.quota_site import Site, StoppedScript
from tests.waiting import connect_all


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store on a real, empty Valkey."""
    store = Store(Secret(redis_url))
    await connect_all(store)
    yield store
    await store.close()


@pytest.fixture
def keys() -> SealingKeys:
    """A key ring of one key."""
    return SealingKeys.parse(new_key_text("k1"))


@pytest.fixture
def devices(store: Store, keys: SealingKeys) -> Devices:
    """The registry on that store."""
    return Devices(store, keys)


@pytest.fixture
def tokens(store: Store, keys: SealingKeys) -> Tokens:
    """Tokens on that store, with small limits."""
    return Tokens(store, keys, max_live=3, max_new_per_hour=5)


@pytest.fixture
def revocations(store: Store) -> RevocationQueue:
    """The revocation queue of that store."""
    return RevocationQueue(store)


@pytest.fixture
def index(store: Store, tokens: Tokens) -> TokenIndex:
    """The indexes of that store."""
    return TokenIndex(store, tokens)


@pytest.fixture
def book(store: Store) -> JobStore:
    """The jobs of that store."""
    return JobStore(store)


@pytest.fixture
def operators(store: Store, keys: SealingKeys) -> Operators:
    """The operators of that store."""
    return Operators(store, keys)


@pytest.fixture
def sessions(store: Store, keys: SealingKeys, operators: Operators) -> Sessions:
    """The operators' sessions on that store."""
    return Sessions(store, keys, operators)


@pytest.fixture
def fleet(store: Store, devices: Devices, tokens: Tokens) -> Fleet:
    """A way to put many devices and tokens into that store."""
    return Fleet(store, devices, tokens)


@pytest.fixture
async def device(devices: Devices) -> Device:
    """A registered device."""
    device = Device(ClientId("GID_plant@@@d1"), Algorithm.HS256, methods_of(Algorithm.HS256), role="sensor")
    return await devices.add_device(device, Secret("k" * 32), ADDED)


@pytest.fixture
def site(store: Store, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Instances that share the quotas; no time passes but where a test lets it pass."""
    for name in ("_TAKE", "_REPORT", "_PROMISE", "_READ_USAGE"):
        script = getattr(quota, name)
        monkeypatch.setattr(quota, name, StoppedScript(script.name, script.may_oom, script.prelude))
    store.clock.shift_ms = store.clock.now_ms()
    return Site(store)
