from __future__ import annotations

import base64

import pytest

from app.model.secrets import CloudToken, Secret
from app.store.sealing import CannotOpen, SealingKeys
from tests.sealing_keys import new_key_text

PLACE = ("cloud-tokens", "GID_plant@@@d1", "03-abc")


def test_what_is_sealed_opens_in_its_own_place_alone() -> None:
    """A value moved to another purpose, device or handle does not open."""
    keys = SealingKeys.parse(new_key_text("k1"))
    sealed = keys.seal(Secret("s"), "cloud-tokens", "GID_plant@@@d1", "03-abc")
    assert keys.open(sealed, "cloud-tokens", "GID_plant@@@d1", "03-abc") == Secret("s")
    with pytest.raises(CannotOpen):
        keys.open(sealed, "client-key", "GID_plant@@@d1", "03-abc")
    with pytest.raises(CannotOpen):
        keys.open(sealed, "cloud-tokens", "GID_plant@@@d2", "03-abc")
    with pytest.raises(CannotOpen):
        keys.open(sealed, "cloud-tokens", "GID_plant@@@d1", "03-abd")


def test_one_changed_bit_does_not_open() -> None:
    """A value that was tampered with is refused, not read."""
    keys = SealingKeys.parse(new_key_text("k1"))
    key_id, _, text = keys.seal(Secret("s"), "client-key", "c").partition(".")
    box = bytearray(base64.urlsafe_b64decode(text))
    box[-1] ^= 1
    with pytest.raises(CannotOpen):
        keys.open(f"{key_id}.{base64.urlsafe_b64encode(bytes(box)).decode()}", "client-key", "c")
    for junk in ("", "k1", "k1.", "k1.!!", "k2.AAAA"):
        with pytest.raises(CannotOpen):
            keys.open(junk, "client-key", "c")


def test_keys_are_changed_without_a_gap() -> None:
    """Append everywhere, then move to the front: at each step every instance opens what any other sealed."""
    old, new = new_key_text("old").reveal(), new_key_text("new").reveal()
    before, appended, moved = (SealingKeys.parse(Secret(text)) for text in (old, f"{old},{new}", f"{new},{old}"))
    token = CloudToken("t")
    for sealing, opening in ((before, appended), (appended, before), (appended, moved), (moved, appended)):
        assert opening.open(sealing.seal(Secret("s"), "client-key", "c"), "client-key", "c") == Secret("s")
        assert sealing.mac(token) in opening.macs(token)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no key"),
        ("k1", "the ID being"),
        ("AAAAAAAAAAAAAAAAAAAAAA", "the ID being"),
        ("k1:abc", "not base64"),
        ("k1:AAAA", "3 bytes"),
        (f"k 1:{base64.b64encode(bytes(32)).decode()}", "the ID being"),
        (f"a:{base64.b64encode(bytes(32)).decode()},a:{base64.b64encode(bytes(32)).decode()}", "same ID"),
    ],
)
def test_a_wrong_key_is_named_without_being_shown(text: str, complaint: str) -> None:
    """A complaint about SEALING_KEYS says what is wrong and holds no key."""
    with pytest.raises(ValueError, match=complaint) as caught:
        SealingKeys.parse(Secret(text))
    assert "AAAAAAAA" not in str(caught.value)


def test_a_key_ring_shows_no_key() -> None:
    """Neither its repr nor that of its parts holds a key."""
    text = new_key_text("k1")
    assert text.reveal().split(":")[1] not in repr(vars(SealingKeys.parse(text)))
