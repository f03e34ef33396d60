"""Explains what pydantic refuses, in the words of this program: for settings and for options of the command line."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

_EXPLANATIONS: Final = {
    "int_parsing": "{value} is not a whole number",
    "float_parsing": "{value} is not a number",
    "finite_number": "{value} is not a finite number",
    "bool_parsing": "{value} is not valid: use true or false",
    "literal_error": "{value} is not valid: use {expected}",
    "greater_than": "{value} is too small: it must be more than {gt:g}",
    "greater_than_equal": "{value} is too small: the minimum is {ge:g}",
    "less_than_equal": "{value} is too large: the maximum is {le:g}",
    "value_error": "{error}",
}


def explain_value_error(error: ValidationError) -> str:
    """Return what is wrong with the first refused value: the value, and what is expected. Without a full stop."""
    first = error.errors(include_url=False)[0]
    template = _EXPLANATIONS.get(first["type"])
    if template is None:
        return first["msg"]
    return template.format(value=repr(first["input"]), **first.get("ctx", {})).removesuffix(".")
