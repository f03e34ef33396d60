"""What a text that was entered into the tokens' search field means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from app.model.devices import CLIENT_ID_MARK, MAX_CLIENT_ID_CHARS
from app.model.grants import PUBLISH, SUBSCRIBE
from app.model.mqtt_password import begins_like_password
from app.model.selections import MalformedSelection, Selection, SelectionKind
from app.service.revocations import select

SearchKind = Literal["auto", "client_id", "role", "topic", "pub", "sub", "token"]
"""What the field holds, as the operator says; ``auto``: it is to be found out."""

MAX_NAME_CHARS: Final = MAX_CLIENT_ID_CHARS + len("pub:")
"""Client IDs, roles and topic filters all end at 64 characters; a token is longer."""


@dataclass(frozen=True, slots=True)
class TokenSearch:
    """A text that was entered, and what it is said to be."""

    text: str
    kind: SearchKind

    @property
    def is_for_all(self) -> bool:
        """Whether nothing is searched for."""
        return self.text in {"", "#"}

    @property
    def looks_like_token(self) -> bool:
        """Whether the text can be nothing but a token, or part of one."""
        return len(self.text) > MAX_NAME_CHARS or begins_like_password(self.text)

    @property
    def may_be_token(self) -> bool:
        """Whether the text is to be looked up as a token first."""
        return self.kind in {"auto", "token"} and (CLIENT_ID_MARK not in self.text or self.looks_like_token)

    @property
    def must_be_token(self) -> bool:
        """Whether it makes no sense as anything else."""
        return self.kind == "token" or (self.kind == "auto" and self.looks_like_token)

    def selection(self) -> Selection:
        """Return the tokens that are meant. Raises ``InvalidRequest``."""
        kind = _guess_kind(self.text) if self.kind == "auto" else self.kind
        match kind:
            case "client_id":
                return select(client_id=self.text)
            case "role":
                return select(role=self.text)
            case "topic":
                return select(topic=self.text)
            case _:
                return select(topic=self.text if self.text.startswith(f"{kind}:") else f"{kind}:{self.text}")


def other_meanings(selection: Selection) -> list[Selection]:
    """Return what else the text of a selection could mean: the operator may have meant that."""
    if selection.kind is SelectionKind.EVERYTHING:
        return []
    text = selection.topic[1] if selection.kind is SelectionKind.TOPIC else selection.value
    others = []
    for make, value in (
        (Selection.of_client_id, text),
        (Selection.of_role, text),
        (Selection.of_topic, f"{PUBLISH}:{text}"),
        (Selection.of_topic, f"{SUBSCRIBE}:{text}"),
        (Selection.of_topic, text),
    ):
        try:
            other = make(value)
        except MalformedSelection:
            continue
        if other != selection:
            others.append(other)
    return others


def _guess_kind(text: str) -> SearchKind:
    if CLIENT_ID_MARK in text:
        return "client_id"
    return "topic" if any(mark in text for mark in "/#+:") else "role"
