"""The one tree of refusals: a status and a code, a sentence for the caller, a cause for the log.

Whatever a caller may be told is in ``description``; whatever only the operator may see is in ``cause``.
``web.middleware`` is the one renderer. A code is a name from RFC 6749 5.2 or RFC 6750 3.1 wherever one fits.
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):
    """An expected refusal: answered, logged in one line, and never shown as a traceback."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "invalid_request"

    def __init__(self, description: str, *, cause: str = "", retry_after_s: int | None = None) -> None:
        """``description`` says what was wrong and the cure; ``cause`` is for the log alone."""
        super().__init__(description)
        self.description = description
        self.cause = cause
        self.retry_after_s = retry_after_s


class InvalidRequest(Refusal):
    """A parameter is missing, repeated or malformed (RFC 6749 5.2)."""


class InvalidScope(Refusal):
    """The permissions asked for are malformed or lie outside the policy (RFC 6749 5.2)."""

    code = "invalid_scope"


class UnsupportedGrantType(Refusal):
    """Only ``client_credentials`` is served (RFC 6749 5.2)."""

    code = "unsupported_grant_type"


class InvalidClient(Refusal):
    """The caller did not prove who it is (RFC 6749 5.2).

    Unknown, disabled and wrong-key callers get the very same sentence: the cause is told to the log alone.
    """

    status = 401
    code = "invalid_client"


class InvalidToken(Refusal):
    """The API key is malformed, unknown, removed or wrong (RFC 6750 3.1): one sentence for all four."""

    status = 401
    code = "invalid_token"


class NoToken(InvalidToken):
    """No API key was sent where one is needed; the challenge then names no error (RFC 6750 3.1)."""


class SignInFailed(Refusal):
    """Nobody signs in with this name and password: one sentence for an unknown name and a wrong password."""

    status = 401
    code = "sign_in_failed"


class InsufficientScope(Refusal):
    """The API key is good, and lacks the right that this needs (RFC 6750 3.1)."""

    status = 403
    code = "insufficient_scope"


class Forbidden(Refusal):
    """Whoever asks is known, and may not do this; or a browser sent a form for another site."""

    status = 403
    code = "forbidden"


class NotFound(Refusal):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


class MethodNotAllowed(Refusal):
    """The address exists, for another method."""

    status = 405
    code = "method_not_allowed"


class CloudRefused(Refusal):
    """The cloud was asked, and refuses: asking again changes nothing."""

    status = 409
    code = "cloud_refused"


class TooLarge(Refusal):
    """The request is larger than anything a device has reason to send."""

    status = 413


class TooManyRequests(Refusal):
    """The caller has used up what one may ask for; ``retry_after_s`` says for how long."""

    status = 429
    code = "temporarily_unavailable"


class Unavailable(Refusal):
    """A part this answer needs is out of reach for now; ``retry_after_s`` says when to ask again."""

    status = 503
    code = "temporarily_unavailable"

    def __init__(self, description: str, *, cause: str = "", retry_after_s: int = 1) -> None:
        """As ``Refusal``; there is always a ``Retry-After``."""
        super().__init__(description, cause=cause, retry_after_s=retry_after_s)


class Internal(Refusal):
    """A fault of ours; the request ID finds it in the log."""

    status = 500
    code = "server_error"


class Misconfigured(Exception):
    """The set-up is wrong: the command line prints this as one line and stops."""
