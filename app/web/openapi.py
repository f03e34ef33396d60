"""``GET /openapi.json``: the API described by the very types by which it is read and written (OpenAPI 3.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from types import UnionType
from typing import Any, Final, get_args, get_origin

import msgspec
from aiohttp import web

from app import __version__
from app.model.secrets import Secret
from app.web.request_input import JSON
from app.web.route import Route

_REFUSED: Final = {
    "description": "Refused: 400 and 404 name the cure, 401 and 403 are about the API key, "
    "429 and 503 say when to try again.",
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
                "required": ["error", "error_description"],
            }
        }
    },
}


class OpenApi:
    """Sends the description of some routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Describe ``routes`` when they are asked about for the first time."""
        self._routes = routes

    async def send_description(self, _request: web.Request) -> web.Response:
        """Answer ``GET /openapi.json``."""
        return web.Response(body=self._description, content_type=JSON)

    @cached_property
    def _description(self) -> bytes:
        return describe(self._routes)


def describe(routes: Sequence[Route]) -> bytes:
    """Describe routes of the API as an OpenAPI document."""
    types = {type_ for each in routes for type_ in (each.types.get("body"), *_answers(each)) if type_}
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components(
        ordered, schema_hook=_secret, ref_template="#/components/schemas/{name}"
    )
    references = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for each in routes:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, references)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "mqtt-token-server",
            "version": __version__,
            "description": "For operators' programs. What devices call: /.well-known/oauth-authorization-server.",
        },
        "security": [{"api_key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"Refused": _REFUSED},
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _operation(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, object]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if "query" in route.types:
        [_], components = msgspec.json.schema_components([route.types["query"]])
        [asked] = components.values()
        parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in asked["properties"].items()]
    handler = route.handler
    operation: dict[str, object] = {
        "operationId": handler.__name__,
        "summary": handler.__doc__,
        "parameters": parameters,
        "responses": {
            str(status): {
                "description": " Or: ".join(_struct(type_).__doc__ for type_ in of_status),
                "content": {JSON: {"schema": {"anyOf": [references[type_] for type_ in of_status]}}},
            }
            for status, of_status in _by_status(route).items()
        }
        | {"default": {"$ref": "#/components/responses/Refused"}},
    }
    if body := route.types.get("body"):
        operation["requestBody"] = {"content": {JSON: {"schema": references[body]}}}
    return operation


def _answers(route: Route) -> tuple[Any, ...]:
    returned = route.types["return"]
    return get_args(returned) if isinstance(returned, UnionType) else (returned,)


def _by_status(route: Route) -> dict[int, list[Any]]:
    by_status: dict[int, list[Any]] = {}
    for type_ in _answers(route):
        by_status.setdefault(_struct(type_).status, []).append(type_)
    return by_status


def _struct(type_: Any) -> Any:
    """Return the struct itself of one that is a page of something."""
    return get_origin(type_) or type_


def _secret(type_: type) -> dict[str, Any]:
    if issubclass(type_, Secret):
        return {"type": "string", "format": "password"}
    raise NotImplementedError
