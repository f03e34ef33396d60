from __future__ import annotations

from app.store.redis_keys import SHARDS, Shard


def test_a_handle_names_its_shard() -> None:
    """Every handle generated in a shard leads back to it, and nothing else is taken for one."""
    for number in range(SHARDS):
        assert Shard.of_handle(Shard(number).new_handle()) == Shard(number)
    for junk in ("", "64-" + "a" * 22, "1-" + "a" * 22, "01-" + "a" * 21, "01-" + "a" * 22 + "\n", "01-" + "|" * 22):
        assert Shard.of_handle(junk) is None
