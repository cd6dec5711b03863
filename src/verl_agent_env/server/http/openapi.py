"""The OpenAPI document, made from the table of routes and the models of the wire."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from verl_agent_env import errors as e
from verl_agent_env.server.http.types import Route
from verl_agent_env.wire.responses import ProblemDetails

_REFERENCE = "#/components/schemas/{model}"
_INITIALIZE = "/api/environment/initialize"
_ENV_ID: dict[str, Any] = {
    "name": "env_id",
    "in": "path",
    "required": True,
    "description": "The id that initialize gave.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[0-9A-Za-z_.-]+$"},
}


def document(app: FastAPI, routes: list[Route], *, has_tokens: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all calls, with an example for each request; made once for each application."""
    if app.openapi_schema is None:
        models = {model for route in routes for model in (route.request_model, route.response_model) if model}
        _, definitions = models_json_schema(_sorted(models), ref_template=_REFERENCE)
        paths: dict[str, Any] = defaultdict(dict)
        for route in routes:
            paths[route.path][route.method.lower()] = _operation(route, has_tokens=has_tokens)
        _link(paths, routes)
        app.openapi_schema = {
            "openapi": "3.1.0",
            "info": {"title": app.title, "version": app.version, "description": app.description},
            "paths": dict(paths),
            "components": {
                "schemas": definitions.get("$defs", {}),
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    return app.openapi_schema


def _sorted(models: set[type]) -> list[Any]:
    return [
        (model, "validation") for model in sorted({ProblemDetails, *models}, key=lambda model: model.__name__)
    ]


def _operation(route: Route, *, has_tokens: bool) -> dict[str, Any]:
    parameters = [*([_ENV_ID] if "{env_id}" in route.path else []), *route.parameters]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": (route.handler.__doc__ or f"{route.summary}.").strip(),
        "operationId": _operation_id(route),
        "tags": list(route.tags),
        "parameters": parameters,
        "responses": {"200": _success(route), **_failures(route, has_tokens=has_tokens)},
    }
    if route.request_model is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _reference(route.request_model),
                    "examples": _examples(route.request_model),
                }
            },
        }
    if has_tokens and route.auth_scope:
        operation["security"] = [{"bearer": []}]
        operation["description"] = f"Needs a token with the scope `{route.auth_scope}`."
    return operation


def _operation_id(route: Route) -> str:
    return f"{route.method.lower()}{route.path.replace('{', '').replace('}', '').replace('/', '_')}"


def _link(paths: dict[str, Any], routes: list[Route]) -> None:
    """Say that the id which initialize gives is what the calls on one environment take."""
    paths[_INITIALIZE]["post"]["responses"]["200"]["links"] = {
        _operation_id(route): {
            "operationId": _operation_id(route),
            "parameters": {"env_id": "$response.body#/env_id"},
        }
        for route in routes
        if "{env_id}" in route.path
    }


def _examples(model: type[BaseModel]) -> dict[str, Any]:
    extra = model.model_config.get("json_schema_extra")
    values = extra.get("examples") if isinstance(extra, dict) else None
    return {f"example_{i}": {"value": value} for i, value in enumerate(values or [], 1)}  # type: ignore[arg-type]


def _success(route: Route) -> dict[str, Any]:
    schema: dict[str, str] = {"type": "string"}
    if route.response_model is not None:
        schema = _reference(route.response_model)
    return {
        "description": route.summary,
        "content": {media_type: {"schema": schema} for media_type in route.media_types},
    }


def _failures(route: Route, *, has_tokens: bool) -> dict[str, Any]:
    by_status: dict[int, list[str]] = defaultdict(list)
    for error in (
        *route.errors,
        *((e.UnauthorizedError, e.InsufficientScopeError) if has_tokens and route.auth_scope else ()),
        e.InternalError,
    ):
        if error.code not in by_status[error.status]:
            by_status[error.status].append(error.code)
    return {
        str(status): {
            "description": " or ".join(f"`{code}`" for code in codes),
            "content": {"application/problem+json": {"schema": _reference(ProblemDetails)}},
        }
        for status, codes in sorted(by_status.items())
    }


def _reference(model: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
