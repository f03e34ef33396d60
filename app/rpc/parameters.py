"""Checks a call's parameters by the catalog, before it is sent (guide chapters 10 to 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from app.model.text import Text, _
from app.rpc.catalog import MAX_BATCH, Action, Parameter


def problems(action: Action, given: Mapping[str, str]) -> list[Text]:
    """Return what the cloud would refuse, one sentence each, which names the parameter and its rule.

    ``InstanceId`` and ``RegionId`` may be missing: the client adds them.
    """
    found = [_unknown(action, name) for name in given if parameter_of(action, name) is None]
    for parameter in action.parameters:
        if parameter.name == "InstanceId" and parameter.name not in given:
            continue
        values = parameter.values(given)
        if parameter.required and not values:
            found.append(_("%(name)s is missing: expected %(rule)s", name=parameter.name, rule=parameter.rule.says))
        found += [
            _("%(name)s is not valid: expected %(rule)s", name=parameter.name, rule=parameter.rule.says)
            for value in values
            if not parameter.rule.admits(value)
        ]
        if len(values) > MAX_BATCH:
            found.append(_("%(name)s has more than %(most)s values", name=parameter.name, most=MAX_BATCH))
    return found


def parameter_of(action: Action, name: str) -> Parameter | None:
    """Return the parameter called ``name`` (``ClientIdList.2`` for an element of a list), or None."""
    for parameter in action.parameters:
        pattern = re.escape(parameter.name) + (r"\.[1-9][0-9]*" if parameter.kind == "RepeatList" else "")
        if re.fullmatch(pattern, name, re.ASCII):
            return parameter
    return None


def _unknown(action: Action, name: str) -> Text:
    """Say that the action has no such parameter, and which one may be meant."""
    names = {parameter.name.lower(): parameter.name for parameter in action.parameters}
    if close := get_close_matches(name.lower(), names, 1):
        return _(
            "%(action)s has no parameter %(name)s: did you mean %(close)s?",
            action=action.name,
            name=name,
            close=names[close[0]],
        )
    return _(
        "%(action)s has no parameter %(name)s: it has %(all)s",
        action=action.name,
        name=name,
        all=", ".join(names.values()),
    )
