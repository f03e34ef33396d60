from __future__ import annotations

import asyncio

import pytest

from app.cloud.client import CloudClient
from app.model.actors import SERVER
from app.model.api_keys import Right
from app.model.secrets import ClientSecret, Secret
from app.service import revoke
from app.service.api_keys import ApiKeyAdmin, Bearer, KeyCheck
from app.service.authenticate import Authenticator
from app.service.client_credentials import Basic
from app.service.delivery import Delivery
from app.service.failure_limits import FailureLimits
from app.service.request_limiter import RequestLimiter
from app.service.revoke import Revoker
from app.service.token_lookup import TokenLookup
from app.store.api_keys import ApiKeys
from app.store.audit import AuditStore
from app.store.failures import FailureCounts
from app.store.records import Priority, TokenRecord
from app.store.redis_keys import Shard
from app.store.revocations import RevocationQueue
from app.store.sealing import SealingKeys
from tests.store.fleet import KEY, Fleet
from tests.store.test_tokens import begin_application, keep, want

ADDRESS = "192.0.2.1"


async def test_devices_own_revokes_wait_for_those_of_operators_and_jobs(
    fleet: Fleet, keys: SealingKeys, revocations: RevocationQueue, client: CloudClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens a device revokes, and however long they would live, a service's revoke goes first."""
    monkeypatch.setattr(revoke, "CONFIRM_WITHIN_S", 0.0)
    device = await fleet.add("d1")
    api_keys = ApiKeys(fleet.store, keys)
    made = await ApiKeyAdmin(api_keys).add_api_key("service", [Right.REVOKE], actor=SERVER)
    limiter = RequestLimiter(1)
    failures = FailureLimits(FailureCounts(fleet.store), fleet.store.clock)
    authenticator = Authenticator(fleet.devices, fleet.store.clock, "https://tokens.example", failures, limiter=limiter)
    # It does not run, so nothing is delivered.
    delivery = Delivery(revocations, fleet.tokens, client, audit=AuditStore(fleet.store), pace=1.0)
    lookup = TokenLookup(authenticator, KeyCheck(api_keys, failures), fleet.tokens, limiter=limiter)
    revoker = Revoker(lookup, fleet.tokens, delivery, limiter=limiter)

    async def token(life_s: int) -> TokenRecord:
        lead = await begin_application(fleet.tokens, want(device, life_s=life_s), f"r{life_s}")
        await keep(fleet.tokens, fleet.store, lead, token=f"cloud-token-{life_s}")
        return await fleet.read(lead.handle)

    own, services, in_bulk = await token(7200), await token(600), await token(3600)
    basic = Basic(device.client_id, ClientSecret(KEY.reveal()))
    deadline = asyncio.get_running_loop().time() + 10
    await revoker.revoke(basic, Secret(own.handle), address=ADDRESS, deadline=deadline)
    await fleet.tokens.revoke_token(in_bulk, Priority.BULK, actor=SERVER)
    await revoker.revoke(Bearer(made.text), Secret(services.handle), address=ADDRESS, deadline=deadline)
    claims = [await revocations.claim_revocation(Shard.of(device.client_id)) for _ in range(3)]
    assert [claim and claim.handle for claim in claims] == [services.handle, in_bulk.handle, own.handle]
