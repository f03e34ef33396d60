from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from multidict import MultiDict

from app.errors import InvalidRequest
from app.model.secrets import Password, Secret
from app.web.api import RequestModel
from app.web.console.forms import convert, filled


class Form(RequestModel, frozen=True):
    """Has a field of each kind that pages ask for."""

    client_id: str = ""
    role: str | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    share: float = 0.5
    by: Literal["auto", "topic"] = "auto"
    sure: bool = False
    handles: list[str] = msgspec.field(default_factory=list)
    groups: tuple[str, ...] = ()
    secret: Secret = msgspec.field(default_factory=lambda: Secret(""))
    old: Password | None = None


def read(*fields: tuple[str, str]) -> Form:
    """Read a form."""
    return convert(MultiDict(fields), Form)


def test_what_is_typed_gets_the_type_it_is_meant_to_have() -> None:
    """Numbers, switches, lists and secrets come from the texts that browsers send."""
    form = read(
        ("count", "7"), ("share", "0.25"), ("sure", "true"), ("handles", "a"), ("handles", "b"), ("secret", "s")
    )
    assert (form.count, form.share, form.sure, form.handles) == (7, 0.25, True, ["a", "b"])
    assert form.secret.reveal() == "s"
    assert read(("old", "p")).old == Password("p")
    assert read(("groups", "a")).groups == ("a",)


def test_an_empty_field_counts_as_left_out() -> None:
    """Browsers send every field of a form, filled in or not."""
    assert read(("count", ""), ("role", ""), ("handles", ""), ("secret", "")) == read()


def test_a_field_that_the_page_does_not_know_is_refused() -> None:
    """It may be meant to narrow what is done; what was sent, a secret perhaps, is not repeated."""
    for field in (("clientid", "a secret in the wrong place"), ("a secret as a name", "y")):
        with pytest.raises(InvalidRequest, match="something unknown was sent") as refused:
            read(field)
        assert "clientid" not in refused.value.description
        assert "secret in" not in refused.value.description
        assert "secret as" not in refused.value.description


def test_a_field_that_is_there_twice_is_refused() -> None:
    """Two readers might each take another one."""
    with pytest.raises(InvalidRequest, match=r"^client_id was sent more than once$"):
        read(("client_id", "a"), ("client_id", "b"))
    assert read(("client_id", ""), ("client_id", "b")).client_id == "b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "0"),
        ("count", "101"),
        ("count", "many"),
        ("count", "1e3"),
        ("count", "٣"),
        ("count", "9" * 5000),
        ("share", "half"),
        ("by", "nobody'; --"),
        ("sure", "perhaps"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_fields_name(name: str, value: str) -> None:
    """The refusal names the field and what it takes, and never what was in it: that may be a secret."""
    with pytest.raises(InvalidRequest) as refused:
        read((name, value))
    assert refused.value.description.startswith(f"{name}: ")
    assert value not in refused.value.description.removeprefix(f"{name}: ") or len(value) == 1


def test_line_breaks_are_those_of_texts_not_of_forms() -> None:
    """A form sends each line break as two characters (HTML, form submission); one is kept."""
    assert read(("client_id", "a\r\nb")).client_id == "a\nb"


def test_what_is_shown_again_holds_no_secret() -> None:
    """A form that was refused is shown as it was filled in, but for passwords and tokens, which are typed again."""
    typed = MultiDict([("client_id", "<b>"), ("secret", "s"), ("old", "p"), ("unknown", "u")])
    assert filled(typed, Form) == {"client_id": "<b>"}
