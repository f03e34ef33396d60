"""Topic filter templates of a policy: ``plant/{device_id}/up/#``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from app.model.devices import ClientId, device_id, group_id
from app.model.text import TextError, _
from app.model.topics import MalformedTopic, TopicFilter, parse_filter, quoted

VARIABLES: Final = "{client_id}, {group_id}, {device_id} and {attr.NAME}"

_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_ATTRIBUTE: Final = re.compile(r"attr\.([A-Za-z0-9_-]+)")
_SAMPLE: Final = ClientId("GID_xxx@@@x")
"""As short as a client ID can be, so a template that is too long for it is too long for all."""

# An attribute or device ID with + # or / in it would widen the topic, or move it into that of another device.
_VALUE: Final = re.compile(r"[A-Za-z0-9_.@:-]+")


def is_value(text: str) -> bool:
    """Return whether ``text`` may take a variable's place: nothing in it can widen a topic or add a level."""
    return _VALUE.fullmatch(text) is not None


class MalformedTemplate(ValueError):
    """A text is not a valid template; the message says why."""


class NoGrant(TextError):
    """A template gives a device no topic filter, so its role grants it nothing."""


@dataclass(frozen=True, slots=True)
class Template:
    """A topic filter with variables. Build it with ``parse``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check ``text``.

        Raises ``MalformedTemplate``: an unknown variable, an unmatched brace, or a topic filter that is invalid even
        with plain values in place of the variables.
        """
        for name in _VARIABLE.findall(text):
            if name not in ("client_id", "group_id", "device_id") and not _ATTRIBUTE.fullmatch(name):
                raise MalformedTemplate(f"unknown variable {quoted(f'{{{name}}}')}: use {VARIABLES}")
        if set(_VARIABLE.sub("", text)) & set("{}"):
            raise MalformedTemplate(f"{quoted(text)} has an unmatched brace: write a variable as {{NAME}}")
        template = cls(text)
        try:
            template._filter(_SAMPLE, dict.fromkeys(_ATTRIBUTE.findall(text), "x"))
        except MalformedTopic as error:
            raise MalformedTemplate(f"{quoted(text)} does not give a valid topic filter: {error}") from None
        return template

    @property
    def parent_glob(self) -> str:
        """A glob for every parent topic (first level) it can give: ``*`` in place of a variable or a wildcard."""
        parent = _VARIABLE.sub("*", self.text).split("/")[0]
        return "*" if parent in ("+", "#") else parent

    def fill(self, client_id: ClientId, attributes: Mapping[str, str]) -> TopicFilter:
        """Put one device's values in place of the variables.

        Raises ``NoGrant``: an attribute that the device does not have, a value with another character than
        ``A-Za-z0-9_.@:-``, or values that make an invalid topic filter (one that is too long, for example).
        """
        try:
            return self._filter(client_id, attributes)
        except MalformedTopic as error:
            raise NoGrant(
                _(
                    "template %(template)s does not give a valid topic filter for this device: %(reason)s",
                    template=quoted(self.text),
                    reason=error.text,
                )
            ) from None

    def _filter(self, client_id: ClientId, attributes: Mapping[str, str]) -> TopicFilter:
        values = {"client_id": client_id, "group_id": group_id(client_id), "device_id": device_id(client_id)}
        values |= {f"attr.{name}": value for name, value in attributes.items()}

        def value_of(variable: re.Match[str]) -> str:
            value = values.get(variable[1])
            if value is None:
                raise NoGrant(
                    _(
                        "template %(template)s needs %(variable)s: give the device this attribute",
                        template=quoted(self.text),
                        variable=variable[0],
                    )
                )
            if not is_value(value):
                raise NoGrant(
                    _(
                        "template %(template)s needs %(variable)s, and this device's value %(value)s is not allowed: "
                        "use one or more of A-Z a-z 0-9 _ . @ : -",
                        template=quoted(self.text),
                        variable=variable[0],
                        value=quoted(value),
                    )
                )
            return value

        return parse_filter(_VARIABLE.sub(value_of, self.text))
