"""Configuration of the MCP servers: the operator's file, in the usual ``mcpServers`` form, and whether clients may add more.

A client of the HTTP API names servers of this file and cannot choose what is run. The variable
``VERL_AGENT_ENV_MCP_CONFIG`` names the file, for servers, for each worker of a pool, and for programs that make
environments themselves. Values may refer to variables, ``${TOKEN}`` or ``${PORT:-8080}``.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from verl_agent_env.envs.commands import reason_against_commands
from verl_agent_env.envs.mcp_chat.definition import MAX_NAME_CHARS, ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ConfigurationError

CONFIG_VARIABLE = "VERL_AGENT_ENV_MCP_CONFIG"
"""Variable with the path of the configuration file."""
COMMANDS_VARIABLE = "VERL_AGENT_ENV_MCP_ALLOW_COMMANDS"
"""Variable that, set to ``1``, lets the arguments of an environment define servers, commands included."""

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """MCP servers that environments may use."""

    servers: Mapping[str, ServerDefinition] = field(default_factory=dict)
    """Definitions of the servers by name."""
    commands_allowed: bool = False
    """True if an environment's arguments may define servers of their own."""


def read_configuration(
    path: Path, variables: Mapping[str, str], *, commands_allowed: bool = False
) -> Configuration:
    """Read the configuration of a file.

    Args:
        path: A JSON file with ``mcpServers``.
        variables: Variables that ``${…}`` refers to.
        commands_allowed: Field of :class:`Configuration`.

    Raises:
        ConfigurationError: The file cannot be read, is not of this form, or refers to a variable that is not set.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as unreadable:
        raise ConfigurationError(f"{path} cannot be read: {unreadable.strerror}") from None
    except orjson.JSONDecodeError:
        # The decoder's message may hold a part of the file.
        raise ConfigurationError(f"{path} is not JSON") from None
    found = document.get("mcpServers") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise ConfigurationError(f'{path} has no object "mcpServers"')
    servers = {}
    for name, value in found.items():
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{path}: the name of a server is 1 to {MAX_NAME_CHARS} letters, digits, '_' and '-', not '{name[:64]}'"
            )
        if not (isinstance(value, dict) and value.get("disabled") is True):
            servers[name] = _definition(f"{path}: mcpServers.{name}", name, value, variables)
    return Configuration(servers, commands_allowed)


def configuration_from(variables: Mapping[str, str]) -> Configuration:
    """Read the configuration that environment variables name; without a file, one without servers.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    path = variables.get(CONFIG_VARIABLE, "")
    commands_allowed = variables.get(COMMANDS_VARIABLE, "").casefold() in ("1", "true", "yes", "on")
    if not path:
        return Configuration(commands_allowed=commands_allowed)
    return read_configuration(Path(path), variables, commands_allowed=commands_allowed)


_in_use: Configuration | None = None


def use_configuration(configuration: Configuration | None) -> None:
    """Hand in the configuration of all environments of this process.

    ``None``, as at the start: that of the process's environment variables, read on its first use.
    """
    global _in_use
    _in_use = configuration


def configuration_in_use() -> Configuration:
    """Return the configuration of this process, without commands if the current call may not name any.

    Raises:
        ConfigurationError: The file that the environment variables name cannot be used.
    """
    configuration = _configuration()
    if configuration.commands_allowed and reason_against_commands():
        return dataclasses.replace(configuration, commands_allowed=False)
    return configuration


def refuse_commands(reason: str) -> None:
    """Ignore the operator's permission of commands from now on: others than one user reach this process.

    Raises:
        ConfigurationError: The file that the environment variables name cannot be used.
    """
    configuration = _configuration()
    if configuration.commands_allowed:
        logger.warning("ignoring %s: %s", COMMANDS_VARIABLE, reason)
        use_configuration(dataclasses.replace(configuration, commands_allowed=False))


def _configuration() -> Configuration:
    if _in_use is None:
        use_configuration(configuration_from(os.environ))
    return _in_use or Configuration()


def _definition(place: str, name: str, value: Any, variables: Mapping[str, str]) -> ServerDefinition:
    expanded: list[str] = []
    filled = _filled(value, variables, place, expanded)
    if not isinstance(filled, dict):
        raise ConfigurationError(f"{place} is not an object")
    try:
        return ServerDefinition.model_validate({**filled, "name": name}).hiding(expanded)
    except ValidationError as invalid:
        faults = invalid.errors(include_url=False, include_context=False, include_input=False)
        shown = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'it'}: {fault['msg']}" for fault in faults[:5]
        )
        raise ConfigurationError(f"{place}: {shown}") from None


def _filled(value: Any, variables: Mapping[str, str], place: str, expanded: list[str]) -> Any:
    """Replace the references in ``value``; the values of the variables are added to ``expanded``."""
    if isinstance(value, dict):
        return {key: _filled(inner, variables, f"{place}.{key}", expanded) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables, place, expanded) for inner in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = variables.get(match[1]) or match[2]
        if found is None:
            raise ConfigurationError(f"{place} refers to the variable {match[1]}, which is not set")
        expanded.append(found)
        return found

    return _REFERENCE.sub(fill, value)
