from __future__ import annotations

import pytest

from app.model.devices import MalformedClientId, device_id, group_id, parse_client_id
from tests.model.test_topics import DESCRIPTION


@pytest.mark.parametrize(
    ("text", "group", "device"),
    [
        ("GID_plant@@@d1", "GID_plant", "d1"),
        ("GID-abc@@@d", "GID-abc", "d"),
        ("GID_plant@@@@@@", "GID_plant", "@@@"),
        ("GID_plant@@@a@@@b", "GID_plant", "a@@@b"),
        ("GID_plant@@@A-z_0.9@x:1", "GID_plant", "A-z_0.9@x:1"),
        ("GID_" + "g" * 56 + "@@@d", "GID_" + "g" * 56, "d"),
    ],
)
def test_a_client_id_is_parted_at_its_first_separator(text: str, group: str, device: str) -> None:
    """The device ID is all that follows the first ``@@@``."""
    client_id = parse_client_id(text)
    assert client_id == text
    assert (group_id(client_id), device_id(client_id)) == (group, device)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GID_plant",
        "GID_plant@@d1",
        "GID_plant@@@",
        "@@@d1",
        "plant@@@d1",
        "gid_plant@@@d1",
        "GIDxplant@@@d1",
        "GID_ab@@@d1",
        "GID_pl.ant@@@d1",
        "GID_plant@@@d/1",
        "GID_plant@@@+",
        "GID_plant@@@#",
        "GID_plant@@@d 1",
        "GID_plant@@@d1\n",
        "GID_plant\n@@@d1",
        "GID_plant@@@dü",
        "GID_plant@@@" + "d" * 53,
    ],
)
def test_what_the_cloud_would_not_take_is_no_client_id(text: str) -> None:
    """A client ID outside the cloud's rules is refused; with a wildcard or a slash it could widen a topic."""
    with pytest.raises(MalformedClientId) as refusal:
        parse_client_id(text)
    assert DESCRIPTION.fullmatch(str(refusal.value))
