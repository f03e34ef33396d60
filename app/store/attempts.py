"""Attempts to prove a password: counted by name and by address before the password is checked, and delayed."""

from __future__ import annotations

import hashlib
from typing import Final

from app.model.ip_addresses import network_of
from app.store.audit import AuditStore
from app.store.redis_keys import attempts_by_address_key, attempts_by_name_key
from app.store.script import Script
from app.store.store import Store

# An operator who has to revoke something signs in also when Redis is full. A flood adds little: keys are digests.
_COUNT: Final = Script("count_attempt", may_oom=True)
_FORGIVE: Final = Script("forgive_attempts", may_oom=True)

FREE_FROM_ONE_ADDRESS: Final = 5
FREE_BY_NAME: Final = 100
LONGEST_BY_NAME_MS: Final = 60_000
"""For a name, five attempts from one address are free, and a hundred from all addresses together: more, so that guesses
from one address do not keep the operator out at another."""

FREE_BY_ADDRESS: Final = 20
LONGEST_BY_ADDRESS_MS: Final = 15 * 60_000
_LIMITS: Final = (
    *(FREE_FROM_ONE_ADDRESS, LONGEST_BY_NAME_MS),
    *(FREE_BY_NAME, LONGEST_BY_NAME_MS),
    *(FREE_BY_ADDRESS, LONGEST_BY_ADDRESS_MS),
)
"""How many attempts are free, and the longest wait: of a name from one address, of a name, of an address."""


class Attempts:
    """Counts of attempts."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.requests
        self.audit = AuditStore(store)
        """Where an attempt that failed is recorded."""

    async def count_attempt(self, name: str, address: str) -> int:
        """Count an attempt and return 0, or return for how many ms it came too early: then nothing is counted.

        ``name`` is what was typed as the name. ``address`` is an IP address; an empty one has no counter. Not to be
        sent again: it would count twice. Raises ``Unavailable``.
        """
        counters = [*_by_name(name, address), *_by_address(address)]
        wait_ms: int = await self._redis.run_script(_COUNT, {"counters": counters}, limits=_LIMITS[: 2 * len(counters)])
        return wait_ms

    async def forgive_attempts(self, name: str, address: str) -> None:
        """Forget the attempts by a name after the right password, and take this one back from its address's.

        Only this one: an attacker who has one password must not be able to guess others without end by signing in now
        and then. Not to be sent again. Raises ``Unavailable``.
        """
        of_name_and_address, of_name = _by_name(name, address)
        await self._redis.run_script(
            _FORGIVE,
            {"of_name_and_address": of_name_and_address, "of_name": of_name, "of_address": _by_address(address)},
        )


def _by_name(name: str, address: str) -> tuple[str, str]:
    # Digests: what is typed as a name is of any length, and may be a password.
    from_address = attempts_by_name_key(_digest(f"{name}\0{network_of(address)}"))
    return from_address, attempts_by_name_key(_digest(name))


def _by_address(address: str) -> list[str]:
    return [attempts_by_address_key(_digest(network_of(address)))] if address else []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
