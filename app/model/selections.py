"""What an operator means to list or revoke: one token, a device's, a role's, those for a topic, or everything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from app.model import topics
from app.model.devices import MalformedClientId, parse_client_id
from app.model.grants import PUBLISH, SUBSCRIBE
from app.model.policy import is_role_name
from app.model.topics import MalformedTopic, shown

EVERYTHING_WORD: Final = "everything"
"""What whoever revokes everything has to say, so that no slip and no empty variable does."""

_WHOLE: Final = frozenset({"#", "+/#"})


class SelectionKind(StrEnum):
    """What a selection names."""

    HANDLE = "handle"
    CLIENT_ID = "client_id"
    ROLE = "role"
    TOPIC = "topic"
    EVERYTHING = "everything"


class MalformedSelection(ValueError):
    """A selection names nothing, two things, or something that cannot be; the message says what and the cure."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tokens are meant. Made by ``parse``, or by the constructor of its kind.

    ``value`` is the handle, client ID, role or topic; empty for everything.
    """

    kind: SelectionKind
    value: str = ""

    @classmethod
    def of_handle(cls, handle: str) -> Self:
        """Select one token. Whether there is such a handle is not known here."""
        return cls(SelectionKind.HANDLE, handle)

    @classmethod
    def of_client_id(cls, client_id: str) -> Self:
        """Select all that a device holds. Raises ``MalformedSelection``."""
        try:
            return cls(SelectionKind.CLIENT_ID, parse_client_id(client_id))
        except MalformedClientId as error:
            raise MalformedSelection(str(error)) from None

    @classmethod
    def of_role(cls, role: str) -> Self:
        """Select what was issued under a role. The policy need not have it any more. Raises ``MalformedSelection``."""
        if not is_role_name(role):
            # Among the floors ``*`` is everything: who names it as a role has not said the word.
            raise MalformedSelection(f"{shown(role)} is no role's name: 1 to 64 of A-Z a-z 0-9 _ . -")
        return cls(SelectionKind.ROLE, role)

    @classmethod
    def of_topic(cls, topic: str) -> Self:
        """Select what could publish or subscribe to some topic of a filter: ``pub:F``, ``sub:F``, or ``F`` for either.

        Filters that overlap are meant, not those that are covered. Raises ``MalformedSelection``.
        """
        try:
            topic_filter = topics.parse_filter(_split(topic)[1])
        except MalformedTopic as error:
            raise MalformedSelection(str(error)) from None
        if topic_filter in _WHOLE and topic == topic_filter:
            # A slip of one level must not take the whole fleet.
            raise MalformedSelection(f"{shown(topic)} is everything: say so with the word for it")
        return cls(SelectionKind.TOPIC, topic)

    @classmethod
    def of_everything(cls) -> Self:
        """Select everything."""
        return cls(SelectionKind.EVERYTHING)

    @classmethod
    def parse(
        cls,
        *,
        handle: str | None = None,
        client_id: str | None = None,
        role: str | None = None,
        topic: str | None = None,
        everything: bool = False,
    ) -> Self:
        """Read a selection from a caller's texts: exactly one of them is given. Raises ``MalformedSelection``."""
        texts = {
            SelectionKind.HANDLE: handle,
            SelectionKind.CLIENT_ID: client_id,
            SelectionKind.ROLE: role,
            SelectionKind.TOPIC: topic,
        }
        given = {kind: text for kind, text in texts.items() if text is not None}
        if len(given) + everything != 1:
            raise MalformedSelection(f"select by exactly one of {', '.join(texts)}, or everything")
        if everything:
            return cls.of_everything()
        [(kind, text)] = given.items()
        if not text:
            # An empty variable of a shell must not become something wider.
            raise MalformedSelection(f"{kind} is empty")
        makers = {
            SelectionKind.HANDLE: cls.of_handle,
            SelectionKind.CLIENT_ID: cls.of_client_id,
            SelectionKind.ROLE: cls.of_role,
            SelectionKind.TOPIC: cls.of_topic,
        }
        return makers[kind](text)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read back what ``str`` wrote."""
        kind, _, value = text.partition("=")
        return cls(SelectionKind(kind), value)

    def __str__(self) -> str:
        return f"{self.kind}={self.value}" if self.value else self.kind

    @property
    def topic(self) -> tuple[str, str]:
        """The verb and the filter of a topic selection; the verb is empty where either is meant."""
        return _split(self.value)

    def reaches(self, scope: str) -> bool:
        """Tell whether a topic selection takes a token of this scope."""
        verb, topic_filter = _split(self.value)
        for permission in scope.split(" "):
            its_verb, _, its_filter = permission.partition(":")
            if verb in {"", its_verb} and topics.overlaps(topic_filter, its_filter):
                return True
        return False


def _split(topic: str) -> tuple[str, str]:
    """Part ``pub:F`` and ``sub:F``; the verb is empty for a bare filter."""
    verb, colon, topic_filter = topic.partition(":")
    return (verb, topic_filter) if colon and verb in {PUBLISH, SUBSCRIBE} else ("", topic)
