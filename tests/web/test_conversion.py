from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from multidict import MultiDict

from app.errors import InvalidRequest
from app.model.api_keys import Right
from app.model.devices import Algorithm
from app.model.secrets import Password, Secret
from app.web.console.session import LanguageForm
from app.web.conversion import FormModel, convert_fields, convert_json, values_to_show
from app.web.oauth import TokenForm


class Form(FormModel, frozen=True):
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
    algorithm: Algorithm = Algorithm.HS256
    rights: list[Right] = msgspec.field(default_factory=list)
    names: dict[str, str] = msgspec.field(default_factory=dict)


def read(*fields: tuple[str, str]) -> Form:
    """Read a form."""
    return convert_fields(MultiDict(fields), Form)


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
        with pytest.raises(InvalidRequest, match="an unknown parameter was sent") as refused:
            read(field)
        assert "clientid" not in refused.value.description
        assert "secret in" not in refused.value.description
        assert "secret as" not in refused.value.description


def test_a_field_that_is_there_twice_is_refused() -> None:
    """Two readers might each take another one."""
    with pytest.raises(InvalidRequest, match=r"^client_id was sent more than once: send it once$"):
        read(("client_id", "a"), ("client_id", "b"))
    assert read(("client_id", ""), ("client_id", "b")).client_id == "b"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("count", "0", "count must be at least 1"),
        ("count", "101", "count must be at most 100"),
        ("count", "many", "count must be a whole number"),
        ("count", "1e3", "count must be at most 100"),
        ("count", "٣", "count must be a whole number"),
        ("count", "9" * 5000, "count must be a whole number"),
        ("share", "half", "share must be a number"),
        ("by", "nobody'; --", "by must be one of auto, topic"),
        ("algorithm", "ES255", "algorithm must be one of HS256, ES256, EdDSA, RS256"),
        ("rights", "x", "rights must be a list, each value one of introspect, revoke, admin"),
        ("sure", "perhaps", "sure must be true or false"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_the_field_takes(name: str, value: str, complaint: str) -> None:
    """The refusal names the field and what it takes, and never what was in it: that may be a secret."""
    with pytest.raises(InvalidRequest) as refused:
        read((name, value))
    assert refused.value.description == complaint


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b'{"count": 101}', "count must be at most 100"),
        (b'{"count": "1"}', "count must be a whole number"),
        (b'{"client_id": 7}', "client_id must be a text"),
        (b'{"role": 7}', "role must be a text"),
        (b'{"secret": ["s"]}', "secret must be a text"),
        (b'{"names": {"a": 7}}', "names must be an object, each value a text"),
        (b'{"handles": "a"}', "handles must be a list, each value a text"),
        (b"[]", "this must be one object with named fields"),
        (b'{"count": 1, "count": 2}', "a field was sent more than once: send each once"),
        (b"{", "the body is not valid JSON: send one object in UTF-8"),
    ],
)
def test_json_is_refused_with_what_the_field_takes(body: bytes, complaint: str) -> None:
    """In the same words as a form: there is one renderer of complaints."""
    with pytest.raises(InvalidRequest) as refused:
        convert_json(body, Form)
    assert refused.value.description == complaint


def test_a_missing_field_is_named() -> None:
    """Where the struct has no default for it."""
    with pytest.raises(InvalidRequest, match=r"^language is missing$"):
        convert_fields(MultiDict(), LanguageForm)


def test_a_form_of_oauth_may_hold_unknown_parameters_and_no_empty_ones() -> None:
    """RFC 6749 section 3.2: what is unknown is ignored, unless it is there twice."""
    form = convert_fields(MultiDict(grant_type="x", more="y"), TokenForm)
    assert (form.grant_type, form.scope) == ("x", None)
    for fields, complaint in (
        ([("grant_type", "")], "grant_type is empty: give it a value, or leave it out"),
        ([("grant_type", "x"), ("R|secret", "")], "an unknown parameter is empty: give it a value, or leave it out"),
        ([("a", "1"), ("a", "2")], "an unknown parameter was sent more than once: send it once"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            convert_fields(MultiDict(fields), TokenForm)
        assert refused.value.description == complaint


def test_line_breaks_are_those_of_texts_not_of_forms() -> None:
    """A form sends each line break as two characters (HTML, form submission); one is kept."""
    assert read(("client_id", "a\r\nb")).client_id == "a\nb"


def test_what_is_shown_again_holds_no_secret() -> None:
    """A form that was refused is shown as it was filled in, but for passwords and tokens, which are typed again."""
    typed = MultiDict([("client_id", "<b>"), ("secret", "s"), ("old", "p"), ("unknown", "u")])
    assert values_to_show(typed, Form) == {"client_id": "<b>"}


@pytest.mark.parametrize(
    "value",
    [
        "secret - at `$.token`",
        "secret - at `$.role`",
        "Object missing required field `secret`",
        "unknown field",
        "Expected `int` <= 12345",
    ],
)
def test_a_value_that_looks_like_a_complaint_does_not_change_the_complaint(value: str) -> None:
    """The library quotes what was sent; nobody may choose by it which field is named, or break the answer."""
    with pytest.raises(InvalidRequest) as refused:
        read(("by", value))
    assert refused.value.description == "by must be one of auto, topic"
    with pytest.raises(InvalidRequest) as refused:
        convert_json(msgspec.json.encode({"algorithm": value}), Form)
    assert refused.value.description == "algorithm must be one of HS256, ES256, EdDSA, RS256"


def test_an_unknown_field_that_looks_like_a_complaint_is_not_repeated() -> None:
    """A secret may be sent as a field's name."""
    for name in ("Object missing required field `secret`", "secret - at `$.by`", "secret - at `$.token`"):
        with pytest.raises(InvalidRequest, match=r"^an unknown parameter was sent"):
            convert_json(msgspec.json.encode({name: "x"}), Form)
