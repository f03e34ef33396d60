"""How a call gets to the cloud: signed, within the quota, over one session that stays open (guide chapters 5, 7, 8)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import structlog

from app.cloud.answers import MAX_ANSWER_BYTES, Expected, RawAnswer, read_answer
from app.cloud.attempts import Attempts
from app.cloud.credentials import Credentials, CredentialsProvider
from app.cloud.errors import TREATMENTS, CloudError, ErrorKind
from app.cloud.quota import Quota
from app.model.secrets import Secret
from app.model.text import _
from app.rpc import signature
from app.rpc.catalog import API_VERSION

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}

Noted = Callable[[str, CloudError | None], None]
"""Called after each attempt with its action, and with the error if it failed."""

log = structlog.get_logger(__name__)


class SignedCalls:
    """Calls of any action for one MQTT instance."""

    def __init__(
        self,
        *,
        url: str,
        region: str,
        instance_id: str,
        credentials: CredentialsProvider,
        quota: Quota,
        now_ms: Callable[[], int],
        attempt_timeout_s: float,
        noted: Noted,
    ) -> None:
        """Sign with ``credentials`` and the time ``now_ms`` (Unix ms), which are asked at each attempt.

        An attempt without an answer is given up after ``attempt_timeout_s``.
        """
        self._session: aiohttp.ClientSession
        self._url = url
        self._region = region
        self._instance_id = instance_id
        self._credentials = credentials
        self._quota = quota
        self._now_ms = now_ms
        self._attempt_timeout_s = attempt_timeout_s
        self._noted = noted

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        """Hold one HTTP session to the cloud; without it no call can be made."""
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # each attempt has its own
            # Signed parameters go to the endpoint and to no proxy that the environment happens to name. A compressed
            # answer is not asked for and not read: a few bytes could unfold into gigabytes.
            trust_env=False,
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "mqtt-token-server"},
        ) as self._session:
            yield

    async def call(
        self,
        action: str,
        parameters: Mapping[str, str | Secret],
        expected: type[Expected],
        *,
        deadline: float,
        repeatable: bool = True,
        last_attempt_ms: int | None = None,
    ) -> Expected:
        """Call until it succeeds, another attempt makes no sense, or the deadline would pass before it.

        The caller took the permit for the first attempt; each further one takes its own, and begins at
        ``last_attempt_ms`` (Unix ms) at the latest. ``repeatable`` says that a call which takes effect twice does no
        harm. Raises ``CloudError``.
        """
        loop = asyncio.get_running_loop()
        attempts = Attempts(until=self._until(deadline, last_attempt_ms), repeatable=repeatable)
        while True:
            try:
                return await self._attempt(action, parameters, expected, deadline=deadline)
            except CloudError as error:
                pause_s = attempts.next_pause_s(error, loop.time())
                self._note_failure(action, attempts.failed, error)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            await self._quota.permit(action, deadline=attempts.until)

    async def send(
        self,
        action: str,
        parameters: Mapping[str, str | Secret],
        *,
        deadline: float,
        sending: Callable[[bytes], None] = lambda _form: None,
    ) -> tuple[RawAnswer, Credentials]:
        """Sign and send once; returns the answer, and the credentials that it must not quote.

        ``sending`` is called with the form just before it is sent. Raises ``CloudError`` if no answer came.
        """
        credentials = await self._credentials.get(deadline=deadline)
        form = self._signed(action, parameters, credentials)
        sending(form)
        return await self._exchange(form, deadline=deadline), credentials

    def _until(self, deadline: float, last_attempt_ms: int | None) -> float:
        """Return up to when another attempt may begin (loop time, in seconds). Raises if the deadline has passed."""
        now = asyncio.get_running_loop().time()
        if now >= deadline:
            raise CloudError(ErrorKind.UNREACHABLE, "Timeout", _("the deadline came before the call"))
        if last_attempt_ms is None:
            return deadline
        return min(deadline, now + (last_attempt_ms - self._now_ms()) / 1000)

    async def _attempt(
        self, action: str, parameters: Mapping[str, str | Secret], expected: type[Expected], *, deadline: float
    ) -> Expected:
        """Call once."""
        raw, credentials = await self.send(action, parameters, deadline=deadline)
        hidden = [value for value in parameters.values() if isinstance(value, Secret)]
        hidden += [credentials.access_key_secret, credentials.security_token or Secret("")]
        answer = read_answer(expected, raw, hidden)
        self._noted(action, None)
        return answer

    def _note_failure(self, action: str, attempt: int, error: CloudError) -> None:
        self._noted(action, error)
        if TREATMENTS[error.kind].renew_credentials:
            self._credentials.invalidate()
        log.warning(
            "cloud_call_failed",
            action=action,
            attempt=attempt,
            kind=error.kind.value,
            code=error.code,
            message=error.message,
            hint=error.error_hint,
            request_id=error.request_id,
            status=error.status,
        )

    async def _exchange(self, form: bytes, *, deadline: float) -> RawAnswer:
        """Send once and read the answer. Raises ``CloudError`` if there is none."""
        now = asyncio.get_running_loop().time()
        try:
            async with (
                asyncio.timeout_at(min(deadline, now + self._attempt_timeout_s)),
                # A redirect is not followed: it would carry the parameters to wherever it says.
                self._session.post(self._url, data=form, headers=_FORM, allow_redirects=False) as response,
            ):
                content = await _read_content(response.content)
        except TimeoutError:
            waited_s = asyncio.get_running_loop().time() - now
            message = _("no answer in %(seconds).1f s", seconds=waited_s)
            raise CloudError(ErrorKind.UNREACHABLE, "Timeout", message, uncertain=True) from None
        except aiohttp.ClientConnectorError as error:
            raise CloudError(ErrorKind.UNREACHABLE, "CannotConnect", str(error)) from None
        except aiohttp.ClientError as error:  # its text could quote the answer, so it is left out
            raise CloudError(ErrorKind.UNREACHABLE, "ConnectionLost", type(error).__name__, uncertain=True) from None
        return RawAnswer(response.status, response.headers, response.content_type, content)

    def _signed(self, action: str, parameters: Mapping[str, str | Secret], credentials: Credentials) -> bytes:
        """Return the body: all parameters of the call and those of chapter 7, signed (chapter 5)."""
        signed = {
            "Action": action,
            "InstanceId": self._instance_id,
            "RegionId": self._region,
            "Format": "JSON",
            "Version": API_VERSION,
            "AccessKeyId": credentials.access_key_id,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": secrets.token_hex(16),
            "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now_ms() // 1000)),
        }
        signed |= {name: value.reveal() if isinstance(value, Secret) else value for name, value in parameters.items()}
        if credentials.security_token:
            signed["SecurityToken"] = credentials.security_token.reveal()
        return signature.rpc_signed_form("POST", credentials.access_key_secret, signed).encode()


async def _read_content(content: aiohttp.StreamReader) -> bytes:
    """Read to the end, but no further than it takes to see that an answer is too long."""
    try:
        return await content.readexactly(MAX_ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
