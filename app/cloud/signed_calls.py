"""How a call gets to the cloud: in its turn, connected, within the quota, signed (guide chapters 5, 7, 8)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple

import structlog

from app.cloud.answers import Expected, RawAnswer, read_answer, read_refusal
from app.cloud.attempts import Attempts
from app.cloud.credentials import Credentials, CredentialsProvider
from app.cloud.errors import TREATMENTS, CloudError, ErrorKind
from app.cloud.permit_connector import CloudConnection, PermitConnector, write_together
from app.cloud.quota import CallOutcome, CallPermit, Quota, QuotaRefusal
from app.model.calls import CallRank
from app.model.secrets import Secret
from app.model.text import _
from app.rpc import signature
from app.rpc.catalog import API_VERSION
from app.tasks import all_of

Parameters = Mapping[str, str | Secret]

Noted = Callable[[CallOutcome], None]
"""Called once after each attempt."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class PendingCall(Generic[Expected]):
    """A call until it has its answer, or the error of its last attempt."""

    attempts: Attempts
    answer: Expected | None = None
    error: CloudError | None = None

    def result(self) -> Expected:
        """Return the answer. Raises the error."""
        if self.answer is None:
            raise self.error or CloudError(ErrorKind.TRANSIENT, "NotCalled")
        return self.answer


@dataclass(frozen=True, slots=True)
class JointCalls(Generic[Expected]):
    """Calls of one action that are made together until ``deadline`` (loop time, in seconds).

    ``parameters`` returns what to send for the given ones of ``calls``. It is called at each attempt, when there is a
    permit: a time among the parameters is then as far ahead as when it is sent. ``on_sent`` is called at each attempt.
    """

    action: str
    calls: Sequence[PendingCall[Expected]]
    parameters: Callable[[Sequence[PendingCall[Expected]]], Sequence[Parameters]]
    expected: type[Expected]
    rank: CallRank
    deadline: float
    on_sent: Callable[[], None] = lambda: None


class _Turn(NamedTuple):
    """Calls that are to be sent together by ``begin_by``, and answered by ``deadline`` (loop time, in seconds)."""

    action: str
    calls: int
    rank: CallRank
    begin_by: float
    deadline: float


class _SentCall(NamedTuple):
    """A call whose answer is waited for until ``deadline`` (loop time, in seconds)."""

    connection: CloudConnection
    parameters: Parameters
    form: bytes
    credentials: Credentials
    permit: CallPermit
    deadline: float

    async def read_raw_answer(self) -> RawAnswer:
        """Wait for the answer. Raises ``CloudError``."""
        return await self.connection.read_answer(deadline=self.deadline)

    async def read_answer(self, expected: type[Expected]) -> Expected:
        """Wait for the answer and read it. Raises ``CloudError``, which quotes no secret that was sent."""
        raw = await self.read_raw_answer()
        hidden = [value for value in self.parameters.values() if isinstance(value, Secret)]
        hidden += [self.credentials.access_key_secret, self.credentials.security_token or Secret("")]
        return read_answer(expected, raw, hidden)


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

        Connecting may take ``attempt_timeout_s`` seconds; so may the answer, from when the call was sent.
        """
        self._connector = PermitConnector(url)
        self._region = region
        self._instance_id = instance_id
        self._credentials = credentials
        self._quota = quota
        self._now_ms = now_ms
        self._attempt_timeout_s = attempt_timeout_s
        self._noted = noted

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        """Keep connections to the cloud; without it no call can be made."""
        async with self._connector.open():
            yield

    async def make(self, joint: JointCalls[Expected]) -> None:
        """Make calls until each has its answer, or another attempt at one of them makes no sense.

        Those that failed are made again together, in a new place.
        """
        failed = joint.calls
        while True:
            earlier = [(call, call.error) for call in failed]
            await self._attempt(joint, failed)
            failed = [call for call in failed if call.error]
            now = asyncio.get_running_loop().time()
            pauses_s = [call.attempts.next_pause_s(call.error, now) for call in failed if call.error]
            if not failed:
                return
            if None in pauses_s:
                _keep_uncertain(earlier)
                return
            await asyncio.sleep(max(pause_s or 0.0 for pause_s in pauses_s))

    async def send(
        self,
        action: str,
        parameters: Parameters,
        *,
        rank: CallRank,
        deadline: float,
        sending: Callable[[bytes], None],
    ) -> RawAnswer:
        """Make a call of any parameters, once; ``sending`` is called with the form when it is sent.

        Raises ``CloudError`` if no answer came.
        """
        turn = _Turn(action, 1, rank, begin_by=deadline, deadline=deadline)
        permit = None
        try:
            async with self._sent(turn, lambda: [parameters]) as [sent]:
                permit = sent.permit
                sending(sent.form)
                raw = await sent.read_raw_answer()
        except QuotaRefusal:
            raise
        except CloudError as error:
            self._noted(CallOutcome(action, error, permit))
            raise
        # Any other refusal says something about the parameters that were tried, and nothing about the cloud.
        refusal = read_refusal(raw)
        throttled = refusal if refusal and refusal.kind is ErrorKind.THROTTLED else None
        self._noted(CallOutcome(action, throttled, permit))
        return raw

    async def _attempt(self, joint: JointCalls[Expected], calls: Sequence[PendingCall[Expected]]) -> None:
        """Make each of the calls once."""
        begin_by = min(call.attempts.until for call in calls)
        turn = _Turn(joint.action, len(calls), joint.rank, begin_by, joint.deadline)
        try:
            async with self._sent(turn, partial(joint.parameters, calls)) as sent:
                joint.on_sent()
                await all_of(self._finish(joint, *each) for each in zip(calls, sent, strict=True))
        except CloudError as error:  # nothing was sent
            for call in calls:
                call.error = error
            self._note_failure(CallOutcome(joint.action, error, None), calls[0].attempts)

    @asynccontextmanager
    async def _sent(
        self, turn: _Turn, parameters: Callable[[], Sequence[Parameters]]
    ) -> AsyncIterator[Sequence[_SentCall]]:
        """Send calls together; keep their place and their connections until they are over. Raises ``CloudError``.

        The order: a place among the calls under way, connections, credentials, permits; then, without any wait,
        ExpireTime and what else the caller sends, signatures, bytes.
        """
        async with self._quota.place(turn.action, turn.calls, rank=turn.rank, deadline=turn.begin_by) as place:
            while True:
                async with self._connector.connections(
                    turn.calls, within_s=self._connect_within_s(turn), on_closed=place.disconnected
                ) as connections:
                    credentials = await self._credentials.get(deadline=turn.begin_by)
                    if not all(each.is_open for each in connections):
                        continue  # to take a permit for them would be in vain
                    permit, is_sent = await place.permit(), False
                    try:
                        given = parameters()
                        forms = [self._signed(turn.action, each, credentials) for each in given]
                        is_sent = write_together(connections, forms, void_at=permit.void_at)
                    finally:
                        if not is_sent:
                            place.give_back()
                    if is_sent:
                        answer_by = min(turn.deadline, asyncio.get_running_loop().time() + self._attempt_timeout_s)
                        yield [
                            _SentCall(*each, credentials, permit, answer_by)
                            for each in zip(connections, given, forms, strict=True)
                        ]
                        return

    async def _finish(self, joint: JointCalls[Expected], call: PendingCall[Expected], sent: _SentCall) -> None:
        """Wait for the answer to a call."""
        try:
            call.answer, call.error = await sent.read_answer(joint.expected), None
        except CloudError as error:
            call.error = error
            self._note_failure(CallOutcome(joint.action, error, sent.permit), call.attempts)
        except Exception as fault:
            # What the calls beside it bring is not lost by a fault of this server.
            log.exception("cloud_answer_unread", action=joint.action)
            call.error = CloudError(ErrorKind.PERMANENT, "ServerFault", type(fault).__name__, uncertain=True)
        else:
            self._noted(CallOutcome(joint.action, None, sent.permit))

    def _connect_within_s(self, turn: _Turn) -> float:
        """Return how many seconds connecting may take. Raises ``CloudError`` if there is no time left."""
        left_s = turn.begin_by - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise QuotaRefusal(ErrorKind.UNREACHABLE, "Timeout", _("the deadline came before the call"))
        return min(self._attempt_timeout_s, left_s)

    def _note_failure(self, outcome: CallOutcome, attempts: Attempts) -> None:
        """Note and log a failed attempt; a refusal of the quota is not one, for nothing was tried."""
        error = outcome.error
        if error is None or isinstance(error, QuotaRefusal):
            return
        self._noted(outcome)
        if TREATMENTS[error.kind].renew_credentials:
            self._credentials.invalidate()
        log.warning(
            "cloud_call_failed",
            action=outcome.action,
            attempt=attempts.failed + 1,
            kind=error.kind.value,
            code=error.code,
            message=error.message,
            hint=error.error_hint,
            request_id=error.request_id,
            status=error.status,
        )

    def _signed(self, action: str, parameters: Parameters, credentials: Credentials) -> bytes:
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


def _keep_uncertain(earlier: Sequence[tuple[PendingCall[Expected], CloudError | None]]) -> None:
    """Give calls that may have taken effect that error back, where another attempt had no permit."""
    for call, error in earlier:
        if error and error.uncertain and isinstance(call.error, QuotaRefusal):
            call.error = error
