"""The simulation's table and picture, of outcomes made up here."""

from __future__ import annotations

from array import array
from collections import Counter
from xml.etree import ElementTree as ET

import pytest

from tests.simulation import plot, report
from tests.simulation.__main__ import parse, scenarios
from tests.simulation.scenario import LOST_S, Outcome, Scenario


def outcome(scenario: Scenario) -> Outcome:
    """Return one in which 90 devices are served evenly within a second, once calls are made."""
    began_at = scenario.outage_s + 5
    served_at = array("d", [began_at + number / 90 for number in range(1, 91)])
    refused = Counter({0: 9, 1: 80, 4: 1})
    return Outcome(scenario, began_at, served_at, 180, refused, kept=99, broken=1, most_in_a_second=90)


def test_the_table_has_a_row_for_each_outcome() -> None:
    """Refusals in the outage and after it have columns of their own; the first is empty after a storm."""
    storm, outage = outcome(Scenario(100, 100)), outcome(Scenario(100, 100, outage_s=3600, other_demand=0.2))
    head, rule, *rows = report.table([storm, outage]).splitlines()
    assert head.count("|") == rule.count("|") == 13
    assert rows == [
        "| 100 | 100/s | storm | 0% |  |  | 0.93 | 4 | 4 | 99.0% | 1.057 | 90 |",
        f"| 100 | 100/s | outage, 1 h | 20% | 5 s | 2.0 | 0.93 | 4 | 4 | 99.0% | {outage.drained:.3f} | 90 |",
    ]
    assert outage.ideal_s == pytest.approx(90 / (0.8 * outage.scenario.pace) + LOST_S)


def test_the_ideal_after_an_outage_begins_slowly() -> None:
    """Its curve has no step where the pace becomes full, and ends at its time."""
    after = outcome(Scenario(100, 100, outage_s=60))
    assert after.ideal_served(3.321) == pytest.approx(after.ideal_served(3.323), rel=0.01)
    assert after.ideal_served(10) == pytest.approx(after.scenario.pace * (10 - LOST_S))


def test_each_target_that_is_missed_is_named() -> None:
    """With what there was instead of what is expected."""
    bad = outcome(Scenario(100, 100))
    bad.refused_after, bad.broken, bad.most_in_a_second = Counter({2: 80, 6: 10}), 60, 101
    assert len(bad.missed()) == 4
    assert "6 refusals of a device" in bad.missed()[1]


def test_the_picture_is_valid_and_has_a_panel_for_each_set_up() -> None:
    """Outcomes that differ in the other demand alone share a panel."""
    each = [outcome(Scenario(100, limit, out, other)) for limit in (100, 500) for out in (0, 60) for other in (0, 0.2)]
    root = ET.fromstring(plot.svg(each))  # noqa: S314 (made here)
    assert len([part for part in root if part.get("class") == "frame"]) == 4
    assert len([part for part in root if part.get("class") == "beside" and part.tag.endswith("path")]) == 4


def test_options_say_what_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    """Two numbers of devices, two limits, storm and outage, without and with other demand; or one number."""
    assert len(scenarios(parse([]))) == 16
    assert {each.devices for each in scenarios(parse(["--devices", "7"]))} == {7}
    with pytest.raises(SystemExit):
        parse(["--devices", "0"])
    assert "at least 1" in capsys.readouterr().err
