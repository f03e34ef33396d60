"""The errors that are expected, and how they are answered.

    Exception
    ├── Refusal                        400 invalid_request
    │   ├── InvalidRequest             400 invalid_request
    │   │   └── InvalidCursor          400 invalid_request (``app.store.cursor``)
    │   ├── InvalidScope               400 invalid_scope
    │   ├── UnsupportedGrantType       400 unsupported_grant_type
    │   ├── InvalidClient              401 invalid_client
    │   ├── InvalidToken               401 invalid_token
    │   │   └── NoToken                401 invalid_token
    │   ├── SignInFailed               401 sign_in_failed
    │   ├── InsufficientScope          403 insufficient_scope
    │   ├── Forbidden                  403 forbidden
    │   ├── NotFound                   404 not_found
    │   ├── MethodNotAllowed           405 method_not_allowed
    │   ├── RequestTimeout             408 invalid_request
    │   ├── CloudRefused               409 cloud_refused
    │   ├── TooLarge                   413 invalid_request
    │   ├── TooManyRequests            429 temporarily_unavailable
    │   │   └── TooManyFailures        429 temporarily_unavailable
    │   ├── Internal                   500 server_error
    │   └── Unavailable                503 temporarily_unavailable
    └── Misconfigured                  exit code 2 at the command line

A ``Refusal`` has a status and a code, a ``description`` for the caller, and a ``cause`` that only the log gets. A code
is a name from RFC 6749 5.2 or RFC 6750 3.1 where one fits. ``web.middleware`` renders refusals as HTTP answers,
``cli.main`` prints them and ends with exit code 1.
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):
    """An expected error: answered and logged as one entry, never as a traceback."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "invalid_request"

    def __init__(self, description: str, *, cause: str = "", retry_after_s: int | None = None) -> None:
        """``description`` says what was wrong, what is expected and what to do; ``cause`` is only for the log."""
        super().__init__(description)
        self.description = description
        self.cause = cause
        self.retry_after_s = retry_after_s


class InvalidRequest(Refusal):
    """A parameter is missing, repeated or malformed (RFC 6749 5.2)."""


class InvalidScope(Refusal):
    """The requested permissions are malformed or outside the policy (RFC 6749 5.2)."""

    code = "invalid_scope"


class UnsupportedGrantType(Refusal):
    """The grant type is not ``client_credentials`` (RFC 6749 5.2)."""

    code = "unsupported_grant_type"


class InvalidClient(Refusal):
    """The device did not authenticate (RFC 6749 5.2).

    Unknown, disabled and wrong-key devices get the same sentence; only the log has the cause.
    """

    status = 401
    code = "invalid_client"


class InvalidToken(Refusal):
    """The API key is malformed, unknown, removed or wrong (RFC 6750 3.1). All four get the same sentence."""

    status = 401
    code = "invalid_token"


class NoToken(InvalidToken):
    """The request has no API key and needs one; the challenge then contains no error code (RFC 6750 3.1)."""


class SignInFailed(Refusal):
    """The operator's name or password is wrong. An unknown name and a wrong password get the same sentence."""

    status = 401
    code = "sign_in_failed"


class InsufficientScope(Refusal):
    """The API key is valid, but lacks the right that this request needs (RFC 6750 3.1)."""

    status = 403
    code = "insufficient_scope"


class Forbidden(Refusal):
    """The caller is authenticated, but may not do this; or a form came from another site."""

    status = 403
    code = "forbidden"


class NotFound(Refusal):
    """Nothing exists under this address or name."""

    status = 404
    code = "not_found"


class MethodNotAllowed(Refusal):
    """The address exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(Refusal):
    """The headers of a request did not arrive in time."""

    status = 408


class CloudRefused(Refusal):
    """The cloud refused. Trying again does not help."""

    status = 409
    code = "cloud_refused"


class TooLarge(Refusal):
    """The request is larger than any valid one."""

    status = 413


class TooManyRequests(Refusal):
    """The caller has reached a limit; ``retry_after_s`` says when to try again."""

    status = 429
    code = "temporarily_unavailable"


class TooManyFailures(TooManyRequests):
    """The caller did not authenticate, and too many have not: answered in place of ``InvalidClient``, ``InvalidToken``.

    A caller with the right key never gets it for a limit that others reached.
    """


class Unavailable(Refusal):
    """A part that this request needs does not answer; ``retry_after_s`` says when to try again."""

    status = 503
    code = "temporarily_unavailable"

    def __init__(self, description: str, *, cause: str = "", retry_after_s: int = 1) -> None:
        """As ``Refusal``, but always with ``Retry-After``."""
        super().__init__(description, cause=cause, retry_after_s=retry_after_s)


class Internal(Refusal):
    """A fault in this program. The request ID finds it in the log."""

    status = 500
    code = "server_error"


class Misconfigured(Exception):
    """A setting, file or option is wrong. The command line prints the message as one line and ends with exit code 2."""
