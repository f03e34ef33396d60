from __future__ import annotations

import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cloud.answers import RawAnswer
from app.cloud.exchange import HIDDEN, MIN_SECRET_CHARS, Received, Sent
from app.model.secrets import AccessKeySecret
from app.rpc import signature
from app.rpc.catalog import ACTIONS, SECRETS

TOKEN = "LzMT+XLFI5s/YWJ/MIDz4t=="
SECRETS_OF_PEOPLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=MIN_SECRET_CHARS, max_size=30)


def sent(**parameters: str) -> Sent:
    """Sign a call."""
    given_ = {"Action": "QueryToken", "AccessKeyId": "ak", **parameters}
    return Sent(signature.rpc_signed_form("POST", AccessKeySecret("sk"), given_).encode())


def received(
    body: str, content_type: str = "application/json", action: str = "QueryToken", status: int = 200
) -> Received:
    """Make an answer."""
    return Received(ACTIONS[action], RawAnswer(status, {}, content_type, body.encode()))


def shown(answer: Received, call: Sent) -> str:
    """Return the body without secrets."""
    return answer.hidden(call).raw.body.decode()


def test_what_was_sent_is_told_in_its_order_and_signed_as_it_was() -> None:
    """The string to sign and the signature belong together, whatever the values."""
    call = sent(Token="a+/= b&c", Payload="ü")
    assert call.signature == signature.rpc_signature(AccessKeySecret("sk"), call.string_to_sign)
    assert list(call.parameters)[-1] == "Signature"


@given(SECRETS_OF_PEOPLE)
def test_a_hidden_call_holds_no_secret(secret: str) -> None:
    """Neither parameters nor string to sign nor ``repr`` has one, and the names are all there."""
    call = sent(Token=secret, SecurityToken=f"sts{secret}", InstanceId="mqtt-1")
    hidden = call.hidden()
    assert list(hidden.parameters) == list(call.parameters)
    assert {name for name, value in hidden.parameters.items() if value == HIDDEN} == {
        "Token",
        "SecurityToken",
        "Signature",
    }
    assert HIDDEN in hidden.string_to_sign
    assert call.signature not in f"{hidden.form!r} {call!r} {hidden!r}"
    assert signature.percent_encode(signature.percent_encode(f"sts{secret}")) not in hidden.string_to_sign


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize("value", ["x", TOKEN, 'a"b\\c', "<&>", "ü-ü-ü"])
def test_fields_are_hidden_in_both_formats(name: str, value: str) -> None:
    """Each secret field, however short or oddly written its value, however spaced or cut off the body."""
    for body in (json.dumps({"A": 1, name: value, "B": [{name: value}]}), json.dumps({name: value}, indent=2)):
        result = shown(received(body), sent())
        assert json.loads(result)[name] == HIDDEN
        assert HIDDEN not in body
    cut_off = json.dumps({name: value * 9})[:-2]
    assert shown(received(cut_off), sent()) == f'{{"{name}": "{HIDDEN}'
    escaped = html.escape(value)
    for inner in (escaped, f"<![CDATA[{value}]]>"):
        result = shown(received(f"<R><A>1</A><{name}>{inner}</{name}></R>", "text/xml"), sent())
        assert result == f"<R><A>1</A><{name}>{HIDDEN}</{name}></R>"
    assert shown(received(f"<R><{name}>{escaped}", "text/xml"), sent()) == f"<R><{name}>{HIDDEN}"


@given(SECRETS_OF_PEOPLE)
def test_what_an_answer_quotes_of_the_call_is_hidden(secret: str) -> None:
    """A refusal quotes the string to sign, a proxy the form: encoded once, twice, escaped, in either case."""
    call = sent(Token=secret)
    writings = (
        secret,
        quote(secret, safe=""),
        quote(quote(secret, safe=""), safe=""),
        quote(secret, safe="").lower(),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        call.string_to_sign,
        html.escape(call.string_to_sign),
        call.form.decode(),
    )
    for writing in writings:
        result = shown(received(f"[{writing}]", "text/html"), call)
        assert HIDDEN in result
        for one in (secret, quote(secret, safe=""), quote(quote(secret, safe=""), safe="")):
            assert HIDDEN in one or one not in result.replace(HIDDEN, "\0") or len(one) < MIN_SECRET_CHARS


def test_an_answer_without_secrets_is_the_very_answer() -> None:
    """Nothing else of a body changes."""
    body = '{"RequestId": "1", "TokenStatus": true, "Message": "Token=?"}'
    assert shown(received(body), sent(Token="never-quoted")) == body


def test_a_result_is_put_into_the_guides_order() -> None:
    """In both formats; what the guide does not know comes last."""
    result = received('{"New": 1, "Token": "t", "RequestId": "r"}', action="ApplyToken")
    assert list(result.json()) == ["RequestId", "Token", "New"]
    assert list(json.loads(result.pretty())) == ["RequestId", "Token", "New"]
    xml = "<ApplyTokenResponse><Token>t</Token><RequestId>r</RequestId></ApplyTokenResponse>"
    assert received(xml, "text/xml", "ApplyToken").pretty().split() == [
        "<ApplyTokenResponse>",
        "<RequestId>r</RequestId>",
        "<Token>t</Token>",
        "</ApplyTokenResponse>",
    ]


def test_a_refused_signature_is_compared() -> None:
    """The same string, escaped or not: another secret. Another string: changed on its way. Else there is no word."""
    call = sent(Token=TOKEN)
    for quoted, said in (
        (call.string_to_sign, "the same string"),
        (html.escape(call.string_to_sign), "the same string"),
        ("POST&other", "a different string"),
    ):
        body = json.dumps({"Code": "SignatureDoesNotMatch", "Message": f"string to sign is:{quoted}", "RequestId": "r"})
        assert said in received(body, status=400).compare(call)
    assert received('{"RequestId": "r", "TokenStatus": true}').compare(call) == ""
    assert received('{"RequestId": "r", "Code": "InternalError"}', status=500).compare(call) == ""
