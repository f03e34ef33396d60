"""Reading an API key from a request (RFC 6750 section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import InvalidRequest
from app.model.secrets import ApiKeyText
from app.model.text import _
from app.service.api_keys import Bearer


def read_bearer(authorization: Sequence[str]) -> Bearer | None:
    """Return the Bearer key of the ``Authorization`` headers, or None if there is none or another scheme.

    Raises ``InvalidRequest`` for two headers: each reader might take another one.
    """
    if len(authorization) > 1:
        raise InvalidRequest(_("authenticate in one way, not in two at once"))
    scheme, _space, text = authorization[0].partition(" ") if authorization else ("", "", "")
    return Bearer(ApiKeyText(text.strip())) if scheme.lower() == "bearer" else None
