"""How a call gets to the cloud: signed, within the quota, over one kept-alive session (guide chapters 5, 7 and 8)."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Literal, Self

import aiohttp
import structlog

from app.cloud.actions import Actions
from app.cloud.answers import MAX_ANSWER_BYTES, Expected, RawAnswer, read_answer
from app.cloud.credentials import Credentials, CredentialsProvider
from app.cloud.errors import RETRIED, CloudError, ErrorKind
from app.cloud.quota import Quota, QuotaExhausted
from app.model.secrets import Secret
from app.rpc import signature
from app.rpc.catalog import ACTIONS, API_VERSION, MAX_TOKEN_LIFE_S
from app.rpc.parameters import problems

MAX_ATTEMPTS: Final = 3
MAX_UNCERTAIN_ATTEMPTS: Final = 2
"""An ApplyToken whose answer was lost leaves a token that nobody knows of, so it is sent once more and not twice."""

BACK_OFF_S: Final = 0.2
"""Before the second attempt at most this, and at least half of it; before the third twice as long."""
THROTTLED_BACK_OFF_S: Final = 1.0
"""The same for throttling, where the cloud does not say when to come back: its limits are for a second."""

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}

Noted = Callable[[str, CloudError | None], None]
"""Told of each attempt: its action, and how it failed."""

log = structlog.get_logger(__name__)
jitter = random.SystemRandom()


def effective_expiry_ms(requested_ms: int, now_ms: int) -> int:
    """Return when a token applied for at ``now_ms`` really expires, in Unix ms: a month from now at most (10.1)."""
    return min(requested_ms, now_ms + MAX_TOKEN_LIFE_S * 1000)


class CloudClient(Actions):
    """The cloud's API for one MQTT instance.

    Every call takes a ``deadline``, an instant of ``loop.time()``, and raises ``CloudError``: after all attempts that
    make sense, or when the deadline is there.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        region: str,
        instance_id: str,
        credentials: CredentialsProvider,
        quota: Quota,
        now_ms: Callable[[], int],
        attempt_timeout_s: float = 3.0,
        noted: Noted = lambda _action, _error: None,
    ) -> None:
        """Build a client that is not connected yet (``connect``).

        ``endpoint`` is a URL without a path. ``credentials`` and ``now_ms`` (the time, in Unix ms) are asked at each
        attempt. An attempt without an answer is given up after ``attempt_timeout_s``.
        """
        self._session: aiohttp.ClientSession
        self.url: Final = f"{endpoint.rstrip('/')}/"
        self.region: Final = region
        self.instance_id: Final = instance_id
        self._credentials = credentials
        self._quota = quota
        self._now_ms = now_ms
        self._attempt_timeout_s = attempt_timeout_s
        self._noted = noted

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        endpoint: str,
        region: str,
        instance_id: str,
        credentials: CredentialsProvider,
        quota: Quota,
        now_ms: Callable[[], int],
        attempt_timeout_s: float = 3.0,
        noted: Noted = lambda _action, _error: None,
    ) -> AsyncIterator[Self]:
        """Build a client, and connect it. Parameters as for the class."""
        client = cls(
            endpoint=endpoint,
            region=region,
            instance_id=instance_id,
            credentials=credentials,
            quota=quota,
            now_ms=now_ms,
            attempt_timeout_s=attempt_timeout_s,
            noted=noted,
        )
        async with client.connect():
            yield client

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Self]:
        """Hold one session to the cloud; without it no call is made."""
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # each attempt brings its own
            # Signed parameters go to the endpoint and to no proxy that the environment happens to name. A compressed
            # answer is not asked for and not read: a few bytes could unfold into gigabytes.
            trust_env=False,
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "mqtt-token-server"},
        ) as self._session:
            yield self

    def refusal(self, action: str, *, deadline: float) -> QuotaExhausted | None:
        """Return why there is no permit before ``deadline``, where that is known already."""
        return self._quota.refusal(action, deadline=deadline)

    async def permits(self, action: str, count: int, *, deadline: float) -> None:
        """Wait for the quota's permits for ``count`` calls at once. Raises as ``Quota.permit``."""
        await self._quota.permit(action, count, deadline=deadline)

    async def call(
        self,
        action: str,
        parameters: Mapping[str, str],
        *,
        deadline: float,
        format_: Literal["JSON", "XML"] = "JSON",
        checked: bool = True,
        sending: Callable[[bytes], None] | None = None,
    ) -> RawAnswer:
        """Send any call of the catalog, once, and return what came back, be it a refusal (``read_refusal`` tells).

        What the catalog would not accept is not sent unless ``checked`` is False; then parameters may replace those
        of chapter 7 too. ``sending`` is shown the form just before it goes out. Raises ``CloudError`` where nothing was
        sent or nothing came back.
        """
        if checked and (wrong := problems(ACTIONS[action], parameters)):
            raise CloudError(ErrorKind.PARAMETER, "NotSent", "; ".join(wrong))
        await self.permits(action, 1, deadline=deadline)
        credentials = await self._credentials.get(deadline=deadline)
        form = self._signed(action, {"Format": format_, **parameters}, credentials)
        if sending is not None:
            sending(form)
        return await self._exchange(form, deadline=deadline)

    async def _call(
        self,
        action: str,
        parameters: Mapping[str, str | Secret],
        expected: type[Expected],
        *,
        deadline: float,
        repeatable: bool = True,
        again_until_ms: int | None = None,
    ) -> Expected:
        """Call until it succeeds, another attempt makes no sense, or the deadline would pass before it.

        The first attempt has its permit; each further one takes its own, and is made by ``again_until_ms`` (Unix ms)
        at the latest.
        """
        now = asyncio.get_running_loop().time()
        if now >= deadline:
            raise CloudError(ErrorKind.UNREACHABLE, "Timeout", "the deadline came before the call")
        again_until = deadline
        if again_until_ms is not None:
            again_until = min(deadline, now + (again_until_ms - self._now_ms()) / 1000)
        most_uncertain = MAX_UNCERTAIN_ATTEMPTS if repeatable else 1
        attempt = uncertain = 0
        while True:
            attempt += 1
            try:
                answer = await self._attempt(action, parameters, expected, deadline=deadline)
            except CloudError as error:
                self._noted(action, error)
                log.warning(
                    "cloud call failed",
                    action=action,
                    attempt=attempt,
                    kind=error.kind.value,
                    code=error.code,
                    message=error.message,
                    probably=error.error_hint,
                    request_id=error.request_id,
                    status=error.status,
                )
                if error.kind is ErrorKind.ACCOUNT:
                    self._credentials.invalidate()
                uncertain += error.uncertain
                pause_s = _pause_s(error, attempt)
                in_time = asyncio.get_running_loop().time() + pause_s < again_until
                if attempt == MAX_ATTEMPTS or uncertain == most_uncertain or not in_time:
                    raise
                if error.kind not in RETRIED:
                    raise
            else:
                self._noted(action, None)
                return answer
            await asyncio.sleep(pause_s)
            await self._quota.permit(action, deadline=again_until)

    async def _attempt(
        self, action: str, parameters: Mapping[str, str | Secret], expected: type[Expected], *, deadline: float
    ) -> Expected:
        """Sign and send once."""
        credentials = await self._credentials.get(deadline=deadline)
        raw = await self._exchange(self._signed(action, parameters, credentials), deadline=deadline)
        hidden = [value for value in parameters.values() if isinstance(value, Secret)]
        hidden += [credentials.access_key_secret, credentials.security_token or Secret("")]
        return read_answer(expected, raw, hidden)

    async def _exchange(self, form: bytes, *, deadline: float) -> RawAnswer:
        """Send once and read the answer. Raises ``CloudError`` if there is none."""
        now = asyncio.get_running_loop().time()
        try:
            async with (
                asyncio.timeout_at(min(deadline, now + self._attempt_timeout_s)),
                # A redirect is not followed: it would carry the parameters to wherever it says.
                self._session.post(self.url, data=form, headers=_FORM, allow_redirects=False) as response,
            ):
                content = await _read(response.content)
        except TimeoutError:
            waited_s = asyncio.get_running_loop().time() - now
            raise CloudError(
                ErrorKind.UNREACHABLE, "Timeout", f"no answer in {waited_s:.1f} s", uncertain=True
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise CloudError(ErrorKind.UNREACHABLE, "CannotConnect", str(error)) from None
        except aiohttp.ClientError as error:  # its text could quote the answer, so it is not told
            raise CloudError(ErrorKind.UNREACHABLE, "ConnectionLost", type(error).__name__, uncertain=True) from None
        return RawAnswer(response.status, response.headers, response.content_type, content)

    def _signed(self, action: str, parameters: Mapping[str, str | Secret], credentials: Credentials) -> bytes:
        """Return the body: all parameters of the call and those of chapter 7, signed (chapter 5)."""
        signed = {
            "Action": action,
            "InstanceId": self.instance_id,
            "RegionId": self.region,
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


def _pause_s(error: CloudError, attempt: int) -> float:
    """Return how long to wait before the next attempt, with a random part, so that callers do not come back at once."""
    if error.retry_after_s is not None:
        return error.retry_after_s + jitter.uniform(0, BACK_OFF_S)
    back_off_s = THROTTLED_BACK_OFF_S if error.kind is ErrorKind.THROTTLED else BACK_OFF_S
    return attempt * back_off_s * jitter.uniform(0.5, 1)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """Read to the end, but no further than it takes to see that an answer is too long."""
    try:
        return await content.readexactly(MAX_ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
