"""The cloud's API for one MQTT instance: a method for each action that the server uses (guide chapters 10 to 14).

Every method takes a ``deadline``, an instant of ``loop.time()``, and raises ``CloudError``: after all attempts that
make sense, or when the deadline is there. How a call gets to the cloud is in ``signed_calls``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, Self

from app.cloud.answers import (
    ApplyTokenAnswer,
    CloseConnectionAnswer,
    CloudAnswer,
    CloudGroup,
    DeviceCredential,
    DeviceCredentialAnswer,
    Expected,
    ListGroupIdAnswer,
    QueryTokenAnswer,
    RawAnswer,
    SendMessageAnswer,
    SessionAnswer,
)
from app.cloud.attempts import Attempts
from app.cloud.credentials import CredentialsProvider
from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import CloudClosed, Quota, QuotaExhausted
from app.cloud.signed_calls import JointCalls, Noted, Parameters, PendingCall, SignedCalls
from app.model.calls import ATTEMPT_TIMEOUT_S, CallRank
from app.model.grants import TokenType
from app.model.lifetimes import CLOUD_MIN_LIFETIME_S
from app.model.secrets import CloudToken
from app.model.text import _
from app.model.topics import TopicFilter
from app.rpc.catalog import ACTIONS
from app.rpc.parameters import problems


@dataclass(frozen=True, slots=True)
class AppliedTokens:
    """What came of applying for the cloud tokens of one grant, all with one expiry (Unix ms).

    ``errors`` has one for each token that is missing. Where one is ``uncertain`` the cloud may have made a token that
    no one will ever use.
    """

    tokens: Mapping[TokenType, CloudToken]
    errors: Sequence[CloudError]
    expires_at_ms: int


class CloudClient:
    """The actions that the server uses, typed, and untyped calls of any action."""

    def __init__(
        self,
        *,
        endpoint: str,
        region: str,
        instance_id: str,
        credentials: CredentialsProvider,
        quota: Quota,
        now_ms: Callable[[], int],
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        noted: Noted = lambda _outcome: None,
    ) -> None:
        """Build a client that is not connected yet (``connect``).

        ``endpoint`` is a URL without a path. The others are as in ``SignedCalls``.
        """
        self.url: Final = f"{endpoint.rstrip('/')}/"
        self.region: Final = region
        self.instance_id: Final = instance_id
        self._quota = quota
        self._now_ms = now_ms
        self._calls = SignedCalls(
            url=self.url,
            region=region,
            instance_id=instance_id,
            credentials=credentials,
            quota=quota,
            now_ms=now_ms,
            attempt_timeout_s=attempt_timeout_s,
            noted=noted,
        )

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Self]:
        """Keep connections to the cloud; without it no call can be made."""
        async with self._calls.connect():
            yield self

    def refusal(
        self, action: str, count: int = 1, *, rank: CallRank = CallRank.FIRST, deadline: float
    ) -> QuotaExhausted | CloudClosed | None:
        """Return why ``count`` calls cannot be made before ``deadline``, where that is known already."""
        return self._quota.refusal(action, count, rank=rank, deadline=deadline)

    async def call(
        self,
        action: str,
        parameters: Mapping[str, str],
        *,
        rank: CallRank = CallRank.FIRST,
        deadline: float,
        format_: Literal["JSON", "XML"] = "JSON",
        checked: bool = True,
        sending: Callable[[bytes], None] = lambda _form: None,
    ) -> RawAnswer:
        """Send any call of the catalog, once, and return what came back, a refusal too: see ``read_refusal``.

        What the catalog would not accept is not sent unless ``checked`` is False; then parameters may replace those
        of chapter 7 too. ``sending`` is called with the form when it is sent. Raises ``CloudError`` where nothing was
        sent or nothing came back.
        """
        if checked and (wrong := problems(ACTIONS[action], parameters)):
            raise CloudError(ErrorKind.PARAMETER, "NotSent", "; ".join(wrong))
        given = {"Format": format_, **parameters}
        return await self._calls.send(action, given, rank=rank, deadline=deadline, sending=sending)

    async def _call(
        self,
        action: str,
        parameters: Parameters,
        expected: type[Expected],
        *,
        rank: CallRank = CallRank.FIRST,
        deadline: float,
        repeatable: bool = True,
        on_sent: Callable[[], None] = lambda: None,
    ) -> Expected:
        """Call until there is an answer or another attempt makes no sense.

        ``repeatable`` says that a call which takes effect twice does no harm. ``on_sent`` is called at each attempt,
        when it is sent.
        """
        call: PendingCall[Expected] = PendingCall(Attempts(until=deadline, repeatable=repeatable))
        joint = JointCalls(action, [call], lambda _: [parameters], expected, rank, deadline, on_sent)
        await self._calls.make(joint)
        return call.result()

    async def apply_tokens(
        self,
        halves: Sequence[tuple[TokenType, Sequence[TopicFilter]]],
        expires_at_ms: Callable[[], int],
        *,
        rank: CallRank = CallRank.FIRST,
        deadline: float,
    ) -> AppliedTokens:
        """Apply for the tokens of one grant together (10.1): they get two permits at once and expire at one instant.

        ``expires_at_ms`` returns that instant, Unix ms, 30 days from now at most. It is called when there are permits:
        waiting for them must not eat into the least life that the cloud accepts. Once one token was made, the other is
        asked for with the same expiry, as long as the cloud would accept it. Errors are returned, not raised.
        """
        calls: dict[PendingCall[ApplyTokenAnswer], tuple[TokenType, Sequence[TopicFilter]]]
        calls = {PendingCall(Attempts(until=deadline, repeatable=True)): half for half in halves}
        expiry_ms = 0

        def parameters(pending: Sequence[PendingCall[ApplyTokenAnswer]]) -> Sequence[Parameters]:
            nonlocal expiry_ms
            if len(pending) == len(calls):
                expiry_ms = expires_at_ms()
                for call in pending:
                    call.attempts.until = min(deadline, self._last_attempt(expiry_ms))
            return [_apply_parameters(*calls[call], expiry_ms) for call in pending]

        await self._calls.make(JointCalls("ApplyToken", [*calls], parameters, ApplyTokenAnswer, rank, deadline))
        return AppliedTokens(
            tokens={type_: CloudToken(call.answer.token) for call, (type_, _filters) in calls.items() if call.answer},
            errors=[call.error for call in calls if call.error],
            expires_at_ms=expiry_ms,
        )

    def _last_attempt(self, expires_at_ms: int) -> float:
        """Return until when the cloud accepts this expiry (loop time, in seconds)."""
        left_ms = expires_at_ms - CLOUD_MIN_LIFETIME_S * 1000 - self._now_ms()
        return asyncio.get_running_loop().time() + left_ms / 1000

    async def query_token(self, token: CloudToken, *, rank: CallRank = CallRank.FIRST, deadline: float) -> bool:
        """Ask whether ``token`` is valid (10.2)."""
        answer = await self._call("QueryToken", {"Token": token}, QueryTokenAnswer, rank=rank, deadline=deadline)
        return answer.token_status

    async def revoke_token(
        self,
        token: CloudToken,
        *,
        rank: CallRank = CallRank.FIRST,
        deadline: float,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """Revoke ``token`` (10.3); without an error, the cloud has confirmed.

        ``on_sent`` is called at each attempt, when it is sent.
        """
        parameters = {"Token": token}
        await self._call("RevokeToken", parameters, CloudAnswer, rank=rank, deadline=deadline, on_sent=on_sent)

    async def create_group_id(self, group_id: str, *, deadline: float) -> None:
        """Create a group ID (11.1). An ``uncertain`` error may have created it."""
        await self._call("CreateGroupId", {"GroupId": group_id}, CloudAnswer, deadline=deadline, repeatable=False)

    async def list_group_ids(self, *, deadline: float) -> tuple[CloudGroup, ...]:
        """Return the instance's group IDs (11.2)."""
        return (await self._call("ListGroupId", {}, ListGroupIdAnswer, deadline=deadline)).data

    async def delete_group_id(self, group_id: str, *, deadline: float) -> None:
        """Delete a group ID (11.3). An ``uncertain`` error may have deleted it."""
        await self._call("DeleteGroupId", {"GroupId": group_id}, CloudAnswer, deadline=deadline, repeatable=False)

    async def send_message(self, topic: str, payload: str, *, deadline: float) -> str:
        """Publish to devices (12.1) and return the message's ID. An ``uncertain`` error may have sent it."""
        parameters = {"MqttTopic": topic, "Payload": payload}
        answer = await self._call("SendMessage", parameters, SendMessageAnswer, deadline=deadline, repeatable=False)
        return answer.msg_id

    async def query_session(self, client_id: str, *, deadline: float) -> bool:
        """Ask whether a device is connected (13.1)."""
        answer = await self._call("QuerySessionByClientId", {"ClientId": client_id}, SessionAnswer, deadline=deadline)
        return answer.online_status

    async def register_device_credential(self, client_id: str, *, deadline: float) -> DeviceCredential:
        """Give a device an access key of its own (14.1); of several registrations the last one counts."""
        return await self._credential("RegisterDeviceCredential", client_id, deadline)

    async def get_device_credential(self, client_id: str, *, deadline: float) -> DeviceCredential:
        """Read a device's access key (14.2)."""
        return await self._credential("GetDeviceCredential", client_id, deadline)

    async def refresh_device_credential(self, client_id: str, *, deadline: float) -> DeviceCredential:
        """Replace the secret of a device's access key (14.4); the one returned last counts."""
        return await self._credential("RefreshDeviceCredential", client_id, deadline)

    async def unregister_device_credential(self, client_id: str, *, deadline: float) -> None:
        """Take a device's access key away (14.3)."""
        await self._call("UnRegisterDeviceCredential", {"ClientId": client_id}, CloudAnswer, deadline=deadline)

    async def close_connection(self, client_id: str, *, rank: CallRank = CallRank.FIRST, deadline: float) -> None:
        """Close a device's connection; newer than the guide (FACTS 3.1), and not on every instance."""
        answer = await self._call(
            "CloseConnection", {"ClientId": client_id}, CloseConnectionAnswer, rank=rank, deadline=deadline
        )
        if not answer.success:
            raise CloudError(
                ErrorKind.PERMANENT, "NotClosed", _("the cloud did not close it"), request_id=answer.request_id
            )

    async def _credential(self, action: str, client_id: str, deadline: float) -> DeviceCredential:
        answer = await self._call(action, {"ClientId": client_id}, DeviceCredentialAnswer, deadline=deadline)
        return answer.device_credential


def _apply_parameters(type_: TokenType, filters: Sequence[TopicFilter], expires_at_ms: int) -> Parameters:
    return {"Actions": type_.actions, "ExpireTime": str(expires_at_ms), "Resources": ",".join(sorted(filters))}
