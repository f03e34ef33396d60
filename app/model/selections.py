"""Selections: which tokens to list or revoke. One token, a device's, a role's, those for a topic, or all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from app.model import topics
from app.model.devices import MalformedClientId, parse_client_id
from app.model.grants import PUBLISH, SUBSCRIBE
from app.model.policy import is_role_name
from app.model.text import TextError, _
from app.model.topics import MalformedTopic, quoted

EVERYTHING_WORD: Final = "everything"
"""The word that confirms revoking all tokens, so that neither a slip nor an empty variable can do it."""

_WHOLE: Final = frozenset({"#", "+/#"})


class SelectionKind(StrEnum):
    """What a selection names."""

    HANDLE = "handle"
    CLIENT_ID = "client_id"
    ROLE = "role"
    TOPIC = "topic"
    EVERYTHING = "everything"


class MalformedSelection(TextError):
    """A selection names nothing, two things, or an invalid one."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tokens are meant. Made by ``parse``, or by the class method of its kind.

    ``value`` is the handle, client ID, role or topic; empty for everything.
    """

    kind: SelectionKind
    value: str = ""

    @classmethod
    def of_handle(cls, handle: str) -> Self:
        """Select one token. Does not check that the handle exists."""
        return cls(SelectionKind.HANDLE, handle)

    @classmethod
    def of_client_id(cls, client_id: str) -> Self:
        """Select all tokens of a device. Raises ``MalformedSelection``."""
        try:
            return cls(SelectionKind.CLIENT_ID, parse_client_id(client_id))
        except MalformedClientId as error:
            raise MalformedSelection(error.text) from None

    @classmethod
    def of_role(cls, role: str) -> Self:
        """Select the tokens issued under a role; the policy need not have it now. Raises ``MalformedSelection``."""
        if not is_role_name(role):
            # Among the revocation watermarks ``*`` stands for all roles: it must not revoke all without the word.
            raise MalformedSelection(
                _("%(role)s is not a valid role name: use 1 to 64 of A-Z a-z 0-9 _ . -", role=quoted(role))
            )
        return cls(SelectionKind.ROLE, role)

    @classmethod
    def of_topic(cls, topic: str) -> Self:
        """Select the tokens that could use some topic of a filter: ``pub:F``, ``sub:F``, or ``F`` for either.

        That is overlap, not coverage. Raises ``MalformedSelection``.
        """
        try:
            topic_filter = topics.parse_filter(_split(topic)[1])
        except MalformedTopic as error:
            raise MalformedSelection(error.text) from None
        if topic_filter in _WHOLE and topic == topic_filter:
            # A slip of one level must not revoke the tokens of all devices.
            raise MalformedSelection(
                _(
                    "topic %(topic)s selects all tokens: to mean that, select everything (at the command line: --all)",
                    topic=quoted(topic),
                )
            )
        return cls(SelectionKind.TOPIC, topic)

    @classmethod
    def of_everything(cls) -> Self:
        """Select all tokens."""
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
            raise MalformedSelection(_("select tokens by exactly one of handle, client_id, role, topic and everything"))
        if everything:
            return cls.of_everything()
        [(kind, text)] = given.items()
        if not text:
            # An empty shell variable must not select more than was meant.
            raise MalformedSelection(_("%(field)s is empty: give it a value or leave it out", field=str(kind)))
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
        """The verb and the filter of a topic selection; the verb is empty if either is meant."""
        return _split(self.value)

    def reaches(self, scope: str) -> bool:
        """Return whether a topic selection includes a token of this scope."""
        verb, topic_filter = _split(self.value)
        for permission in scope.split(" "):
            its_verb, _, its_filter = permission.partition(":")
            if verb in {"", its_verb} and topics.overlaps(topic_filter, its_filter):
                return True
        return False


def _split(topic: str) -> tuple[str, str]:
    """Split ``pub:F`` and ``sub:F``; the verb is empty for a filter alone."""
    verb, colon, topic_filter = topic.partition(":")
    return (verb, topic_filter) if colon and verb in {PUBLISH, SUBSCRIBE} else ("", topic)
