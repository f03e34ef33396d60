"""Topic filter templates of a policy: ``plant/{device_id}/up/#``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from app.model.devices import ClientId, device_id, group_id
from app.model.topics import MalformedTopic, TopicFilter, parse_filter, shown

VARIABLES: Final = "{client_id}, {group_id}, {device_id} and {attr.NAME}"

_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_ATTRIBUTE: Final = re.compile(r"attr\.([A-Za-z0-9_-]+)")
_SAMPLE: Final = ClientId("GID_xxx@@@x")
"""As short as client IDs get, so a template that is too long for this one is too long for all."""

# An attribute or device ID with + # or / in it would widen the topic, or move it into a neighbour's.
_VALUE: Final = re.compile(r"[A-Za-z0-9_.@:-]+")


def is_value(text: str) -> bool:
    """Tell whether ``text`` may stand for a variable: nothing in it can widen a topic or add a level."""
    return _VALUE.fullmatch(text) is not None


class MalformedTemplate(ValueError):
    """A text is no template; the message says why."""


class NoGrant(Exception):
    """A device has no grant; the message says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A topic filter with variables. Build it with ``parse``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check ``text``.

        Raises ``MalformedTemplate``: an unknown variable, a brace without its partner, or no topic filter even with
        plain values in place of the variables.
        """
        for name in _VARIABLE.findall(text):
            if name not in ("client_id", "group_id", "device_id") and not _ATTRIBUTE.fullmatch(name):
                raise MalformedTemplate(f"unknown variable {shown(f'{{{name}}}')}: there are {VARIABLES}")
        if set(_VARIABLE.sub("", text)) & set("{}"):
            raise MalformedTemplate(f"{shown(text)} has a brace without its partner")
        template = cls(text)
        try:
            template._filter(_SAMPLE, dict.fromkeys(_ATTRIBUTE.findall(text), "x"))
        except MalformedTopic as error:
            raise MalformedTemplate(f"{shown(text)} gives no topic filter even for plain values: {error}") from None
        return template

    @property
    def parent_glob(self) -> str:
        """A glob for every parent topic (first level) that it may give: a variable or a wildcard there is ``*``."""
        parent = _VARIABLE.sub("*", self.text).split("/")[0]
        return "*" if parent in ("+", "#") else parent

    def fill(self, client_id: ClientId, attributes: Mapping[str, str]) -> TopicFilter:
        """Put one device's values in place of the variables.

        Raises ``NoGrant``: an attribute that the device does not have, a value with another character than
        ``A-Za-z0-9_.@:-``, or values that make no topic filter (too long, say).
        """
        try:
            return self._filter(client_id, attributes)
        except MalformedTopic as error:
            raise NoGrant(f"template {shown(self.text)} gives no topic filter: {error}") from None

    def _filter(self, client_id: ClientId, attributes: Mapping[str, str]) -> TopicFilter:
        values = {"client_id": client_id, "group_id": group_id(client_id), "device_id": device_id(client_id)}
        values |= {f"attr.{name}": value for name, value in attributes.items()}

        def value_of(variable: re.Match[str]) -> str:
            value = values.get(variable[1])
            if value is None:
                raise NoGrant(f"template {shown(self.text)} needs {variable[0]}, and the device has no such attribute")
            if not is_value(value):
                raise NoGrant(
                    f"template {shown(self.text)} needs {variable[0]}, whose value {shown(value)} for this device "
                    "is empty or outside A-Z a-z 0-9 _ . @ : -"
                )
            return value

        return parse_filter(_VARIABLE.sub(value_of, self.text))
