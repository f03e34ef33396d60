"""The cloud's API for one MQTT instance: a method for each action that the server uses (guide chapters 10 to 14).

Every method takes a ``deadline``, an instant of ``loop.time()``, and raises ``CloudError``: after all attempts that
make sense, or when the deadline is there. How a call gets to the cloud is in ``signed_calls``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
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
from app.cloud.credentials import CredentialsProvider
from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import Quota, QuotaExhausted
from app.cloud.signed_calls import Noted, SignedCalls
from app.model.grants import TokenType
from app.model.lifetimes import CLOUD_MIN_LIFETIME_S
from app.model.secrets import CloudToken, Secret
from app.model.text import _
from app.model.topics import TopicFilter
from app.rpc.catalog import ACTIONS
from app.rpc.parameters import problems


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
        attempt_timeout_s: float = 3.0,
        noted: Noted = lambda _action, _error: None,
    ) -> None:
        """Build a client that is not connected yet (``connect``).

        ``endpoint`` is a URL without a path. The others are as in ``SignedCalls``.
        """
        self.url: Final = f"{endpoint.rstrip('/')}/"
        self.region: Final = region
        self.instance_id: Final = instance_id
        self._quota = quota
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
        """Hold one session to the cloud; without it no call can be made."""
        async with self._calls.connect():
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
        sending: Callable[[bytes], None] = lambda _form: None,
    ) -> RawAnswer:
        """Send any call of the catalog, once, and return what came back, a refusal too: see ``read_refusal``.

        What the catalog would not accept is not sent unless ``checked`` is False; then parameters may replace those
        of chapter 7 too. ``sending`` is called with the form just before it is sent. Raises ``CloudError`` where
        nothing was sent or nothing came back.
        """
        if checked and (wrong := problems(ACTIONS[action], parameters)):
            raise CloudError(ErrorKind.PARAMETER, "NotSent", "; ".join(wrong))
        await self.permits(action, 1, deadline=deadline)
        given = {"Format": format_, **parameters}
        answer, _credentials = await self._calls.send(action, given, deadline=deadline, sending=sending)
        return answer

    async def _call(
        self,
        action: str,
        parameters: Mapping[str, str | Secret],
        expected: type[Expected],
        *,
        deadline: float,
        repeatable: bool = True,
    ) -> Expected:
        """Take a permit and call."""
        await self.permits(action, 1, deadline=deadline)
        return await self._calls.call(action, parameters, expected, deadline=deadline, repeatable=repeatable)

    async def apply_token(
        self, type_: TokenType, resources: Collection[TopicFilter], expires_at_ms: int, *, deadline: float
    ) -> CloudToken:
        """Apply for a token (10.1) that expires at ``expires_at_ms``, Unix ms: 30 days from now at most.

        The caller took the permit for the first attempt with ``permits``, before it computed the expiry: the wait must
        not eat into the least life that the cloud accepts. An attempt that the cloud would refuse, as the token would
        expire too soon by then, is not made.

        If the error is ``uncertain`` the cloud may have made a token that no one will ever use.
        """
        parameters = {
            "Actions": type_.actions,
            "ExpireTime": str(expires_at_ms),
            "Resources": ",".join(sorted(resources)),
        }
        last_attempt_ms = expires_at_ms - CLOUD_MIN_LIFETIME_S * 1000
        answer = await self._calls.call(
            "ApplyToken", parameters, ApplyTokenAnswer, deadline=deadline, last_attempt_ms=last_attempt_ms
        )
        return CloudToken(answer.token)

    async def query_token(self, token: CloudToken, *, deadline: float) -> bool:
        """Ask whether ``token`` is valid (10.2)."""
        answer = await self._call("QueryToken", {"Token": token}, QueryTokenAnswer, deadline=deadline)
        return answer.token_status

    async def revoke_token(self, token: CloudToken, *, deadline: float) -> None:
        """Revoke ``token`` (10.3); without an error, the cloud has confirmed.

        The caller took the permit for the first attempt with ``permits``, before it chose what to revoke first.
        """
        await self._calls.call("RevokeToken", {"Token": token}, CloudAnswer, deadline=deadline)

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

    async def close_connection(self, client_id: str, *, deadline: float) -> None:
        """Close a device's connection; newer than the guide (FACTS 3.1), and not on every instance."""
        answer = await self._call("CloseConnection", {"ClientId": client_id}, CloseConnectionAnswer, deadline=deadline)
        if not answer.success:
            raise CloudError(
                ErrorKind.PERMANENT, "NotClosed", _("the cloud did not close it"), request_id=answer.request_id
            )

    async def _credential(self, action: str, client_id: str, deadline: float) -> DeviceCredential:
        answer = await self._call(action, {"ClientId": client_id}, DeviceCredentialAnswer, deadline=deadline)
        return answer.device_credential
