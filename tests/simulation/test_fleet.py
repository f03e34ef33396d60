"""The devices of a fleet that all ask at once are served nearly as fast as the cloud allows, and refused about once."""

from __future__ import annotations

import pytest

from tests.simulation.fleet import simulate
from tests.simulation.scenario import Scenario

DEVICES = 2_000
"""Of which a limit of 100 a second admits a quarter at once."""


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(DEVICES, 100),
        Scenario(DEVICES, 100, other_demand=0.2),
        Scenario(DEVICES, 100, outage_s=20),
        Scenario(500, 100, outage_s=60),
    ],
    ids=str,
)
def test_devices_that_all_ask_at_once_are_served_as_they_were_promised(scenario: Scenario) -> None:
    """By three instances, after a storm and after an outage: every target of the simulation is met."""
    outcome = simulate(scenario)
    assert outcome.missed() == []
    assert len(outcome.served_at) > 0.85 * scenario.devices
    assert outcome.drained <= 1.15
    assert outcome.mean_in_outage + outcome.mean_after > 0.5
