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

from pydantic import ValidationError

from verl_agent_env.envs.commands import reason_against_commands
from verl_agent_env.envs.mcp_chat.definition import MAX_NAME_CHARS, ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ConfigurationError
from verl_agent_env.envs.operator_files import OperatorFileError, filled, read_entries, shown_faults

CONFIG_VARIABLE = "VERL_AGENT_ENV_MCP_CONFIG"
"""Variable with the path of the configuration file."""
COMMANDS_VARIABLE = "VERL_AGENT_ENV_MCP_ALLOW_COMMANDS"
"""Variable that, set to ``1``, lets the arguments of an environment define servers, commands included."""

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")

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
        found = read_entries(path, "mcpServers")
    except OperatorFileError as unusable:
        raise ConfigurationError(str(unusable)) from None
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
    try:
        entry = filled(value, variables, place, expanded)
    except OperatorFileError as unusable:
        raise ConfigurationError(str(unusable)) from None
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{place} is not an object")
    try:
        return ServerDefinition.model_validate({**entry, "name": name}).hiding(expanded)
    except ValidationError as invalid:
        faults = invalid.errors(include_url=False, include_context=False, include_input=False)
        raise ConfigurationError(f"{place}: {shown_faults(faults)}") from None
