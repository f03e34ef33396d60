"""One method an action (guide chapters 10 to 14, and CloseConnection); how they get to the cloud is ``client``'s.

All take a ``deadline``, an instant of ``loop.time()``, and raise ``CloudError``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping

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
    SendMessageAnswer,
    SessionAnswer,
    SessionsAnswer,
)
from app.cloud.errors import CloudError, ErrorKind
from app.model.grants import TokenType
from app.model.secrets import CloudToken, Secret
from app.model.topics import TopicFilter
from app.rpc.catalog import MAX_BATCH, MIN_TOKEN_LIFE_S


class Actions(ABC):
    """The cloud's API for one MQTT instance, typed."""

    @abstractmethod
    async def permits(self, action: str, count: int, *, deadline: float) -> None:
        """Wait for the quota's permits for ``count`` calls. Raises ``QuotaExhausted``."""

    @abstractmethod
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
        """Call with the permit for the first attempt in hand; ``repeatable`` says that twice does no harm.

        After ``again_until_ms``, Unix ms, no further attempt is made.
        """

    async def _ask(
        self,
        action: str,
        parameters: Mapping[str, str | Secret],
        expected: type[Expected],
        *,
        deadline: float,
        repeatable: bool = True,
    ) -> Expected:
        await self.permits(action, 1, deadline=deadline)
        return await self._call(action, parameters, expected, deadline=deadline, repeatable=repeatable)

    async def apply_token(
        self, type_: TokenType, resources: Collection[TopicFilter], expires_at_ms: int, *, deadline: float
    ) -> CloudToken:
        """Apply for a token (10.1) that expires at ``expires_at_ms``, Unix ms; see ``effective_expiry_ms``.

        The caller took the permit for the first attempt with ``permits``, before it computed the expiry: the wait must
        not eat into the least life the cloud accepts.

        An attempt that the cloud would refuse, as the token would expire too soon by then, is not made.

        If the error is ``uncertain`` the cloud may have made a token that nobody will ever hold.
        """
        parameters = {
            "Actions": type_.actions,
            "ExpireTime": str(expires_at_ms),
            "Resources": ",".join(sorted(resources)),
        }
        last_ms = expires_at_ms - MIN_TOKEN_LIFE_S * 1000
        answer = await self._call("ApplyToken", parameters, ApplyTokenAnswer, deadline=deadline, again_until_ms=last_ms)
        return CloudToken(answer.token)

    async def query_token(self, token: CloudToken, *, deadline: float) -> bool:
        """Ask whether ``token`` is valid (10.2)."""
        answer = await self._ask("QueryToken", {"Token": token}, QueryTokenAnswer, deadline=deadline)
        return answer.token_status

    async def revoke_token(self, token: CloudToken, *, deadline: float) -> None:
        """Revoke ``token`` (10.3); without an error, the cloud has confirmed.

        The caller took the permit for the first attempt with ``permits``, before it chose what to revoke first.
        """
        await self._call("RevokeToken", {"Token": token}, CloudAnswer, deadline=deadline)

    async def create_group_id(self, group_id: str, *, deadline: float) -> None:
        """Create a group ID (11.1). An ``uncertain`` error may have created it."""
        await self._ask("CreateGroupId", {"GroupId": group_id}, CloudAnswer, deadline=deadline, repeatable=False)

    async def list_group_ids(self, *, deadline: float) -> tuple[CloudGroup, ...]:
        """Return the instance's group IDs (11.2)."""
        return (await self._ask("ListGroupId", {}, ListGroupIdAnswer, deadline=deadline)).data

    async def delete_group_id(self, group_id: str, *, deadline: float) -> None:
        """Delete a group ID (11.3). An ``uncertain`` error may have deleted it."""
        await self._ask("DeleteGroupId", {"GroupId": group_id}, CloudAnswer, deadline=deadline, repeatable=False)

    async def send_message(self, topic: str, payload: str, *, deadline: float) -> str:
        """Publish to devices (12.1) and return the message's ID. An ``uncertain`` error may have sent it."""
        parameters = {"MqttTopic": topic, "Payload": payload}
        answer = await self._ask("SendMessage", parameters, SendMessageAnswer, deadline=deadline, repeatable=False)
        return answer.msg_id

    async def query_session(self, client_id: str, *, deadline: float) -> bool:
        """Ask whether a device is connected (13.1)."""
        answer = await self._ask("QuerySessionByClientId", {"ClientId": client_id}, SessionAnswer, deadline=deadline)
        return answer.online_status

    async def query_sessions(self, client_ids: Iterable[str], *, deadline: float) -> dict[str, bool]:
        """Ask which of many devices are connected (13.2), in the order asked for, each once.

        One call names ten devices at most, so more devices are more calls.
        """
        online: dict[str, bool] = {}
        asked = list(dict.fromkeys(client_ids))
        for start in range(0, len(asked), MAX_BATCH):
            some = asked[start : start + MAX_BATCH]
            parameters = {f"ClientIdList.{number}": client_id for number, client_id in enumerate(some, 1)}
            answer = await self._ask("BatchQuerySessionByClientIds", parameters, SessionsAnswer, deadline=deadline)
            told = {each.client_id: each.online_status for each in answer.online_status_list}
            if missing := [client_id for client_id in some if client_id not in told]:
                raise CloudError(ErrorKind.TRANSIENT, "MalformedAnswer", f"nothing is said of {missing[0]}")
            online |= {client_id: told[client_id] for client_id in some}
        return online

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
        await self._ask("UnRegisterDeviceCredential", {"ClientId": client_id}, CloudAnswer, deadline=deadline)

    async def close_connection(self, client_id: str, *, deadline: float) -> None:
        """Cut a device's connection; newer than the guide (FACTS 3.1), and not on every instance."""
        answer = await self._ask("CloseConnection", {"ClientId": client_id}, CloseConnectionAnswer, deadline=deadline)
        if not answer.success:
            raise CloudError(ErrorKind.PERMANENT, "NotClosed", "the cloud says so", request_id=answer.request_id)

    async def _credential(self, action: str, client_id: str, deadline: float) -> DeviceCredential:
        answer = await self._ask(action, {"ClientId": client_id}, DeviceCredentialAnswer, deadline=deadline)
        return answer.device_credential
