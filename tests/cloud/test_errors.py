from __future__ import annotations

import pytest

from app.cloud.error_hints import ERROR_HINTS, error_hint
from app.cloud.errors import CloudError, ErrorKind, classify
from app.rpc.codes import ERRORS, GATEWAY_ERRORS


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ApplyTokenOverflow", ErrorKind.THROTTLED),
        ("ApplyTokenOverFlow", ErrorKind.THROTTLED),
        ("SystemOverflow", ErrorKind.THROTTLED),
        ("Throttling", ErrorKind.THROTTLED),
        ("Throttling.User", ErrorKind.THROTTLED),
        ("InternalError", ErrorKind.TRANSIENT),
        ("InternalServerError", ErrorKind.TRANSIENT),
        ("ServiceUnavailable", ErrorKind.TRANSIENT),
        ("SignatureNonceUsed", ErrorKind.TRANSIENT),
        ("PermissionCheckFailed", ErrorKind.PERMISSION),
        ("InstancePermissionCheckFailed", ErrorKind.PERMISSION),
        ("Forbidden.RAM", ErrorKind.PERMISSION),
        ("ParameterCheckFailed", ErrorKind.PARAMETER),
        ("InvalidParameter.Token", ErrorKind.PARAMETER),
        ("MissingResources", ErrorKind.PARAMETER),
        ("InvalidResources", ErrorKind.PARAMETER),
        ("MissingSecurityToken", ErrorKind.ACCOUNT),
        ("InvalidAccessKeyId.NotFound", ErrorKind.ACCOUNT),
        ("InvalidAccessKeyId.Inactive", ErrorKind.ACCOUNT),
        ("SignatureDoesNotMatch", ErrorKind.ACCOUNT),
        ("CheckAccountInfoFailed", ErrorKind.ACCOUNT),
        ("InvalidSecurityToken.Expired", ErrorKind.ACCOUNT),
        ("ApiNotSupport", ErrorKind.PERMANENT),
        ("InvalidTimeStamp.Expired", ErrorKind.PERMANENT),
        ("InvalidSignatureMethod", ErrorKind.PERMANENT),
        ("InvalidAction.NotFound", ErrorKind.PERMANENT),
        ("SomethingNew", ErrorKind.PERMANENT),
    ],
)
def test_a_code_has_one_kind_in_any_case(code: str, kind: ErrorKind) -> None:
    """Guide and live tables spell codes differently; both spellings are one kind."""
    assert classify(code) == classify(code.upper()) == classify(code.lower()) == kind


def test_every_code_of_the_catalog_is_classified_on_purpose() -> None:
    """No documented code falls through to permanent for want of a row."""
    permanent = {code for code in (*ERRORS, *GATEWAY_ERRORS) if classify(code) is ErrorKind.PERMANENT}
    assert permanent == {
        "ApiNotSupport",
        "InvalidTimeStamp.Expired",
        "InvalidTimeStamp.Format",
        "InvalidAction.NotFound",
        "InvalidVersion",
        "InvalidSignatureMethod",
        "InvalidSignatureVersion",
        "UnsupportedHTTPMethod",
        "InvalidProtocol.NeedSsl",
    }


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_has_a_sentence_that_tells_nothing_of_the_cloud_account(kind: ErrorKind) -> None:
    """A caller learns the kind of failure and none of the cloud's words."""
    error = CloudError(kind, "SomeCode", "some message", request_id="some-id")
    assert error.sentence.startswith("the cloud ")
    assert not any(part in error.sentence for part in ("SomeCode", "some message", "some-id"))


EXPECTED_CAUSES = [
    ("PermissionCheckFailed", ("RAM", "parent topic", "another account")),
    ("InstancePermissionCheckFailed", ("CLOUD_INSTANCE_ID", "mq:MqttInstanceAccess")),
    ("InstanceNotFound", ("CLOUD_INSTANCE_ID", "CLOUD_REGION")),
    ("ServiceUnavailable", ("CLOUD_INSTANCE_ID", "ExpireTime")),
    ("InvalidAccessKeyId.NotFound", ("ALIBABA_CLOUD_ACCESS_KEY_ID",)),
    ("Forbidden.RAM", ("RAM",)),
    ("SignatureDoesNotMatch", ("ALIBABA_CLOUD_ACCESS_KEY_SECRET",)),
    ("InvalidTimeStamp.Expired", ("clock",)),
    ("ApiNotSupport", ("V3", "3.3.0")),
    ("Throttling.User", ("quota",)),
    ("ApplyTokenOverFlow", ("quota",)),
    ("CannotConnect", ("blocked",)),
    ("ConnectionLost", ("blocked",)),
]


@pytest.mark.parametrize(("code", "words"), EXPECTED_CAUSES)
def test_the_operator_is_told_the_probable_cause(code: str, words: tuple[str, ...]) -> None:
    """The cause names the setting, permission or thing to look at, whatever the code's case."""
    for spelling in (code, code.upper()):
        assert all(word in CloudError(ErrorKind.PERMANENT, spelling).error_hint for word in words)


def test_every_code_of_the_catalog_has_a_cause_or_none_on_purpose() -> None:
    """No documented code is left unexplained, but those that only an own mistake in this code could cause."""
    unexplained = {code for code in (*ERRORS, *GATEWAY_ERRORS) if not error_hint(code)}
    assert unexplained == {
        "InvalidSignatureMethod",
        "InvalidSignatureVersion",
        "UnsupportedHTTPMethod",
    }
    assert all(key == key.lower() for key in ERROR_HINTS)
