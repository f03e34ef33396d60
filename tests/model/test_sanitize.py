from __future__ import annotations

import pytest

from app.model.sanitize import sanitize_for_error_description, sanitize_for_log, sanitize_for_spreadsheet


def test_a_log_entry_stays_in_its_line_and_holds_no_password() -> None:
    """A line break could forge an entry, a control character steer a terminal; an MQTT password is cut off."""
    assert sanitize_for_log("a\nb\x1b[2Jc\u202ed é 中") == "a?b?[2Jc?d é 中"
    assert sanitize_for_log("scope R|LzMT+XLF/s= and RW|abc|R|def") == "scope R|... and RW|..."


def test_an_error_description_holds_only_what_the_rfc_allows() -> None:
    """What a caller sent is shown without quotes, backslashes, control characters and other alphabets."""
    assert sanitize_for_error_description('a"b\\c\n\x00é') == "a'b?c???"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_spreadsheet_takes_no_cell_for_a_formula(cell: str) -> None:
    """It would be run where the file is opened."""
    assert sanitize_for_spreadsheet(cell) == f"'{cell}"
    assert sanitize_for_spreadsheet(f"x{cell}") == f"x{cell}"
