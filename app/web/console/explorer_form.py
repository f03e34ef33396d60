"""The explorer's form: a field for each parameter of the cloud's actions, and what it says of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from app.errors import InvalidRequest
from app.model.secrets import Secret
from app.model.text import join_sentences
from app.rpc.catalog import ACTIONS, SECRETS, Action, Parameter
from app.rpc.parameters import problems
from app.web.conversion import FormModel

_BY_NAME: Final = {each.name: each for action in ACTIONS.values() for each in action.parameters}
"""A parameter of the same name is the same everywhere, but for how strict its rule is."""

if TYPE_CHECKING:
    _Parameters = FormModel
else:
    _Parameters = msgspec.defstruct(
        "_Parameters",
        [
            (name, Secret, msgspec.field(default_factory=lambda: Secret(""))) if name in SECRETS else (name, str, "")
            for name in _BY_NAME
        ],
        bases=(FormModel,),
        frozen=True,
        module=__name__,
    )


class CallForm(_Parameters, frozen=True):
    """A call: a field for each parameter that there is, a list's with one value on each line.

    ``anyway`` sends what breaks a rule. ``show_secrets`` is for this one answer. ``confirmed`` is a whole form of this
    kind, sealed: what the operator was shown and confirmed is what is sent.
    """

    format: Literal["JSON", "XML"] = "JSON"
    anyway: bool = False
    show_secrets: bool = False
    confirmed: str = ""

    def parameters(self, action: Action) -> dict[str, str]:
        """Return what the form holds for an action, as it is sent; what was left empty is not."""
        parameters: dict[str, str] = {}
        for each in action.parameters:
            text = self._text(each)
            if each.kind == "RepeatList":
                values = [line.strip() for line in text.splitlines() if line.strip()]
                parameters |= {f"{each.name}.{number}": value for number, value in enumerate(values, 1)}
            elif text:
                parameters[each.name] = text
        return parameters

    def checked_parameters(self, action: Action) -> dict[str, str]:
        """Return the same. Raises ``InvalidRequest`` where a rule is broken, unless that is meant."""
        parameters = self.parameters(action)
        if not self.anyway and (wrong := problems(action, parameters)):
            raise InvalidRequest(join_sentences(wrong))
        return parameters

    def as_fields(self) -> dict[str, str]:
        """Return its fields as a browser sent them."""
        boxes = {"anyway": self.anyway, "show_secrets": self.show_secrets}
        return {
            **{name: self._text(each) for name, each in _BY_NAME.items()},
            **{name: "true" for name, ticked in boxes.items() if ticked},
            "format": self.format,
        }

    def as_typed(self) -> dict[str, str]:
        """Return its fields as they may be shown again."""
        return {name: value for name, value in self.as_fields().items() if name not in SECRETS}

    def _text(self, parameter: Parameter) -> str:
        value = getattr(self, parameter.name)
        return value.reveal() if isinstance(value, Secret) else str(value)


def without_secrets(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return parameters as a page may show them: nothing instead of a secret."""
    return {name: "" if name in SECRETS else value for name, value in parameters.items()}
