from __future__ import annotations

import pytest

from app.cloud.quota import CallPermit
from app.service.permit_stock import PermitStock, PermitValidity
from app.store.quota import MAX_VALID_S, VALID_S


def test_permits_are_there_until_they_are_void() -> None:
    """Not a moment longer; and what is taken out is gone."""
    stock = PermitStock(lambda: None)
    permit = CallPermit(1.0, 7, is_probe=False)
    stock.add(3, permit, 0.0)
    assert stock.count(0.5) == 3
    assert stock.take(2) is permit
    assert (stock.count(0.999), stock.count(1.0), stock.count(0.5)) == (1, 0, 0)


def test_mixed_permits_are_void_with_the_oldest() -> None:
    """Whichever came first; void ones are not mixed with any."""
    for first, second in ((1.0, 2.0), (2.0, 1.0)):
        stock = PermitStock(lambda: None)
        stock.add(1, CallPermit(first, 0, is_probe=False), 0.0)
        stock.add(1, CallPermit(second, 0, is_probe=False), 0.0)
        assert (stock.count(0.9), stock.count(1.0)) == (2, 0)
        stock.add(1, CallPermit(3.0, 0, is_probe=False), 1.5)
        assert stock.count(2.5) == 1


def test_an_unused_probe_is_reported_once() -> None:
    """The other instances learn that the cloud was not probed, and need not wait for the probe's lease."""
    unsent: list[bool] = []
    stock = PermitStock(lambda: unsent.append(True))
    stock.add(2, CallPermit(1.0, 0, is_probe=True), 0.0)
    stock.take(1)
    assert (stock.count(0.5), unsent) == (1, [])
    assert [stock.count(1.0), stock.count(2.0)] == [0, 0]
    assert unsent == [True]
    stock.add(1, CallPermit(2.5, 0, is_probe=True), 2.0)
    stock.take(1)
    stock.count(3.0)
    assert unsent == [True]  # it was used


def test_permits_are_valid_for_as_long_as_it_usually_takes_to_use_them() -> None:
    """Never for less than the least, never for more than the most; soon longer, and later shorter again."""
    validity = PermitValidity()
    validity.note(0.001)
    assert validity.valid_s == VALID_S
    for _ in range(2):
        validity.note(0.03)
    assert validity.valid_s > 0.03  # after two answers of a Redis that takes 30 ms, permits can be used
    for _ in range(20):
        validity.note(0.03)
    assert validity.valid_s == pytest.approx(0.12, rel=0.01)
    validity.note(10)
    assert validity.valid_s == MAX_VALID_S
    for _ in range(100):
        validity.note(0.001)
    assert validity.valid_s == VALID_S
