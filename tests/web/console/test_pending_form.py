from __future__ import annotations

import base64

import pytest
from multidict import MultiDict

from app.errors import InvalidRequest
from app.store.sealing import SealingKeys
from app.web.console.pending_form import (
    FIELD,
    GOOD_FOR_MS,
    MAX_CHARS,
    PendingForm,
    restore_form,
    seal_form,
    unseal_form,
)
from tests.sealing_keys import new_key_text

NOW_MS = 1_790_000_000_000
PATH = "/admin/devices"
FORM = MultiDict([("client_id", "GID_plant@@@d1"), ("note", "三 <b>"), ("pick", "a"), ("pick", "b"), ("empty", "")])


@pytest.fixture
def keys() -> SealingKeys:
    """Sealing keys."""
    return SealingKeys.parse(new_key_text("k1"))


def seal(keys: SealingKeys, path: str, fields: MultiDict[str], now_ms: int) -> str:
    """Seal a form that was sent at ``now_ms``."""
    return seal_form(keys, PendingForm(path, list(fields.items()), now_ms))


def test_a_form_comes_back_as_it_was(keys: SealingKeys) -> None:
    """Every field, in its order, with its repetitions and other alphabets."""
    sealed = seal(keys, PATH, FORM, NOW_MS)
    back = restore_form(keys, PATH, MultiDict({FIELD: sealed}), NOW_MS + 1000)
    assert list(back.items()) == list(FORM.items())
    assert unseal_form(keys, sealed, NOW_MS).path == PATH


def test_nothing_of_a_form_can_be_read_where_it_travels(keys: SealingKeys) -> None:
    """Whoever signs in next sees that there is a form, and not what is in it."""
    sealed = seal(keys, PATH, MultiDict(q="R|a-token-in-hand"), NOW_MS)
    assert "a-token-in-hand" not in sealed
    assert b"a-token-in-hand" not in base64.urlsafe_b64decode(sealed.partition(".")[2])


def test_a_form_goes_to_its_own_page_alone(keys: SealingKeys) -> None:
    """What was meant for one page is not sent as another's, nor mixed with fields of somebody else's making."""
    sealed = seal(keys, PATH, FORM, NOW_MS)
    for path, more in (("/admin/devices/x", {}), ("/admin/devices/", {}), (PATH, {"role": "admin"})):
        with pytest.raises(InvalidRequest, match="another page"):
            restore_form(keys, path, MultiDict({FIELD: sealed, **more}), NOW_MS)
    with pytest.raises(InvalidRequest):
        restore_form(keys, PATH, MultiDict([(FIELD, sealed), (FIELD, sealed)]), NOW_MS)


def test_a_form_is_good_for_half_an_hour(keys: SealingKeys) -> None:
    """After that nobody remembers what it was about."""
    sealed = seal(keys, PATH, FORM, NOW_MS)
    assert unseal_form(keys, sealed, NOW_MS + GOOD_FOR_MS).path == PATH
    with pytest.raises(InvalidRequest, match="30 minutes"):
        unseal_form(keys, sealed, NOW_MS + GOOD_FOR_MS + 1)


def test_a_form_that_was_tampered_with_is_refused(keys: SealingKeys) -> None:
    """One changed bit, another key, another thing that was sealed, and nonsense of any kind are none of ours."""
    sealed = seal(keys, PATH, FORM, NOW_MS)
    key_id, _, text = sealed.partition(".")
    box = bytearray(base64.urlsafe_b64decode(text))
    box[20] ^= 1
    changed = f"{key_id}.{base64.urlsafe_b64encode(box).decode()}"
    others = seal(SealingKeys.parse(new_key_text("k1")), PATH, FORM, NOW_MS)
    for hostile in (
        changed,
        others,
        "",
        "x",
        ".",
        f"{key_id}.",
        f"{key_id}.é",
        f"k2.{text}",
        sealed[:-4],
        sealed * 9,
        "\x00",
    ):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            unseal_form(keys, hostile, NOW_MS)


def test_a_form_that_is_too_large_is_not_carried(keys: SealingKeys) -> None:
    """What would not fit into a form again is not taken along, and the page says so."""
    assert len(seal(keys, PATH, MultiDict(note="x" * 29_000), NOW_MS)) <= MAX_CHARS
    assert seal(keys, PATH, MultiDict(note="x" * 30_000), NOW_MS) == ""
