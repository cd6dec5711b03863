"""Command-line options made from the settings: one for each field, its docstring as help."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from verl_agent_env.config import (
    FILE,
    VALUES,
    VERBATIM,
    ClusterSettings,
    ConnectionLimits,
    HostLimits,
    HttpLimits,
    ServerSettings,
    TlsSettings,
    variable_of,
)

F = TypeVar("F", bound=Callable[..., Any])

_GROUPS: tuple[type, ...] = (
    ServerSettings,
    ClusterSettings,
    HostLimits,
    HttpLimits,
    ConnectionLimits,
    TlsSettings,
)


def settings_options(command: F) -> F:
    """Give a command an option for each plain field of the settings, with its default and its documentation."""
    for group in reversed(_GROUPS):
        documentation = _field_documentation(group)
        for field in reversed(dataclasses.fields(group)):
            if isinstance(field.default, str | int | float | bool | tuple):
                command = _option(field, documentation.get(field.name, ""))(command)
    return command


def merge_options(settings: ServerSettings, given: dict[str, Any]) -> ServerSettings:
    """Return ``settings`` with the fields given on the command line replaced."""
    chosen = {name: value for name, value in given.items() if value is not None and value != ()}

    def of(group: type) -> dict[str, Any]:
        return {field.name: chosen[field.name] for field in dataclasses.fields(group) if field.name in chosen}

    return dataclasses.replace(
        settings,
        **of(ServerSettings),
        host_limits=dataclasses.replace(settings.host_limits, **of(HostLimits)),
        cluster=dataclasses.replace(settings.cluster, **of(ClusterSettings)),
        http_limits=dataclasses.replace(settings.http_limits, **of(HttpLimits)),
        connection_limits=dataclasses.replace(settings.connection_limits, **of(ConnectionLimits)),
        tls=dataclasses.replace(settings.tls, **of(TlsSettings)),
    )


def _option(field: dataclasses.Field[Any], documentation: str) -> Callable[[F], F]:
    flag = "--" + field.name.replace("_", "-")
    shared: dict[str, Any] = {
        "envvar": variable_of(field.name),
        "default": None,
        "help": documentation,
        "shell_complete": _completion(field),
    }
    if isinstance(field.default, bool):
        return click.option(f"{flag}/--no-{flag[2:]}", **shared)
    if isinstance(field.default, tuple):
        # One value each time as --allowed-host, or all of them with commas between as --allowed-hosts.
        names = (_singular(flag), *(() if field.metadata.get(VERBATIM) else (flag,)))
        callback = None if field.metadata.get(VERBATIM) else _split_at_commas
        shared = {**shared, "envvar": None, "callback": callback, "multiple": True}
        return click.option(*dict.fromkeys(names), field.name, **shared)
    shared["help"] = f"{documentation}  [default: {field.default}]"
    return click.option(flag, type=type(field.default), **shared)


def _singular(flag: str) -> str:
    return f"{flag.removesuffix('ies')}y" if flag.endswith("ies") else flag.removesuffix("s")


def _completion(
    field: dataclasses.Field[Any],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return what completes a field's value: the values that it may have, or files."""
    values, is_file = [str(value) for value in field.metadata.get(VALUES, ())], field.metadata.get(FILE)

    def complete(_: click.Context, __: click.Parameter, start: str) -> list[CompletionItem]:
        if is_file:
            return [CompletionItem(start, type="file")]
        return [CompletionItem(value) for value in values if value.startswith(start)]

    return complete


def _split_at_commas(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _field_documentation(group: type) -> dict[str, str]:
    """Read the docstrings under a dataclass's fields, which Python itself discards."""
    body = ast.parse(inspect.getsource(group)).body[0]
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).replace("``", "").split())  # type: ignore[union-attr]
    return found
