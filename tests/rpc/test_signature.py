from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.secrets import AccessKeySecret
from app.rpc import signature

SECRET = AccessKeySecret("testsecret")
EXAMPLE = {
    "Timestamp": "2016-02-23T12:46:24Z",
    "Format": "XML",
    "AccessKeyId": "testid",
    "Action": "DescribeRegions",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
    "Version": "2014-05-26",
    "SignatureVersion": "1.0",
}
PARAMETERS = st.dictionaries(st.text(min_size=1), st.text(), max_size=6)


def test_the_guides_own_example_has_the_guides_signature() -> None:
    """Chapter 5's example request is signed with chapter 5's signature."""
    text = signature.rpc_string_to_sign("GET", EXAMPLE)
    assert text.startswith("GET&%2F&AccessKeyId%3Dtestid%26Action%3DDescribeRegions%26Format%3DXML%26")
    assert "Timestamp%3D2016-02-23T12%253A46%253A24Z" in text
    assert signature.rpc_signature(SECRET, text) == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("AZaz09-_.~", "AZaz09-_.~"),
        (" ", "%20"),
        ("*", "%2A"),
        ("+", "%2B"),
        ("/", "%2F"),
        ('"', "%22"),
        ("ä", "%C3%A4"),
    ],
)
def test_characters_are_encoded_as_the_guides_table_says(text: str, encoded: str) -> None:
    """Chapter 5, step 1.ii, row by row."""
    assert signature.percent_encode(text) == encoded


@given(st.text())
def test_any_text_is_encoded_as_the_rfc_says(text: str) -> None:
    """Encoding is RFC 3986's for every character, and once more over itself."""
    assert signature.percent_encode(text) == quote(text, safe="")
    assert signature.percent_encode(signature.percent_encode(text)) == quote(quote(text, safe=""), safe="")


@given(PARAMETERS)
def test_the_canonical_query_is_a_form_that_reads_back_as_the_parameters(parameters: dict[str, str]) -> None:
    """Nothing is lost in the canonical query, empty values included, and its names are in order."""
    pairs = parse_qsl(signature.canonical_query(parameters), keep_blank_values=True, strict_parsing=bool(parameters))
    assert dict(pairs) == parameters
    assert [name for name, _ in pairs] == sorted(parameters)


@given(PARAMETERS, st.data())
def test_the_signature_depends_on_every_parameter_and_on_no_order(
    parameters: dict[str, str], data: st.DataObject
) -> None:
    """Any change to a name, a value or the method changes the string to sign; the order of parameters does not."""
    text = signature.rpc_string_to_sign("POST", parameters)
    shuffled = dict(data.draw(st.permutations(list(parameters.items()))))
    assert signature.rpc_string_to_sign("POST", shuffled) == text
    assert signature.rpc_string_to_sign("GET", parameters) != text
    assert signature.rpc_string_to_sign("POST", parameters | {"Signature": data.draw(st.text())}) == (
        signature.rpc_string_to_sign("POST", {k: v for k, v in parameters.items() if k != "Signature"})
    )
    changed = data.draw(PARAMETERS)
    without = ({k: v for k, v in each.items() if k != "Signature"} for each in (parameters, changed))
    assert (signature.rpc_string_to_sign("POST", changed) == text) == (next(without) == next(without))


@given(PARAMETERS)
def test_the_string_to_sign_reads_back_as_the_canonical_query(parameters: dict[str, str]) -> None:
    """The third part of the string to sign is the canonical query, encoded once more."""
    parameters.pop("Signature", None)
    method, slash, query = signature.rpc_string_to_sign("POST", parameters).split("&")
    assert (method, slash) == ("POST", "%2F")
    assert unquote(query) == signature.canonical_query(parameters)


def test_another_secret_gives_another_signature() -> None:
    """Without the secret there is no signature."""
    text = signature.rpc_string_to_sign("GET", EXAMPLE)
    other = signature.rpc_signature(AccessKeySecret("testsecret2"), text)
    assert not signature.equal(signature.rpc_signature(SECRET, text), other)
    assert signature.equal(other, other)


def test_a_signed_form_is_what_chapter_5_builds_step_by_step() -> None:
    """The form has the signature of its own parameters, each encoded as it was signed."""
    secret, parameters = AccessKeySecret("s"), {"b": "x y+*~/", "A": "ü", "empty": ""}
    form = signature.rpc_signed_form("POST", secret, parameters)
    text = signature.rpc_string_to_sign("POST", parameters)
    assert dict(parse_qsl(form, keep_blank_values=True)) == {
        **parameters,
        "Signature": signature.rpc_signature(secret, text),
    }
