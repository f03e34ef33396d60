"""What is wrong with a call's parameters, by the catalog, before it is sent (guide chapters 10 to 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from app.rpc.catalog import MAX_BATCH, Action, Parameter


def problems(action: Action, given: Mapping[str, str]) -> list[str]:
    """Return what the cloud would refuse, one line each, naming the parameter and its rule.

    ``InstanceId`` and ``RegionId`` are not missed: the client adds them where they are left out.
    """
    found = [unknown(action, name) for name in given if parameter_of(action, name) is None]
    for parameter in action.parameters:
        if parameter.name == "InstanceId" and parameter.name not in given:
            continue
        values = parameter.values(given)
        if parameter.required and not values:
            found.append(f"{parameter.name} is missing: {parameter.rule.says}")
        found += [
            f"{parameter.name}: it must be {parameter.rule.says}"
            for value in values
            if not parameter.rule.admits(value)
        ]
        if len(values) > MAX_BATCH:
            found.append(f"{parameter.name}: {MAX_BATCH} at most")
    return found


def parameter_of(action: Action, name: str) -> Parameter | None:
    """Return the parameter that ``name`` names, ``ClientIdList.2`` for one of a list; None if the action has none."""
    for parameter in action.parameters:
        pattern = re.escape(parameter.name) + (r"\.[1-9][0-9]*" if parameter.kind == "RepeatList" else "")
        if re.fullmatch(pattern, name, re.ASCII):
            return parameter
    return None


def unknown(action: Action, name: str) -> str:
    """Say that the action has no such parameter, and which one may have been meant."""
    names = {parameter.name.lower(): parameter.name for parameter in action.parameters}
    close = get_close_matches(name.lower(), names, 1)
    hint = f": did you mean {names[close[0]]}?" if close else f", which takes {', '.join(names.values())}"
    return f"{name} is no parameter of {action.name}{hint}"
