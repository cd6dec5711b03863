"""Secrets in a command line."""

from __future__ import annotations

import json

import pytest

from verl_agent_env.cli.secret_options import without_secrets


@pytest.mark.parametrize(
    ("arguments", "kept", "variables"),
    [
        (["serve", "--auth-token", "a,b", "--port", "1", "--auth-token=c"], ["serve", "--port", "1"],
         {"VERL_AGENT_ENV_AUTH_TOKENS": json.dumps(["a,b", "c"])}),
        (["status", "http://x", "--token", "one", "--token=two", "--once"], ["status", "http://x", "--once"],
         {"VERL_AGENT_ENV_TOKEN": "two"}),
        (["serve", "--redis", "redis://:pass@host/0", "--node=a"], ["serve", "--node=a"],
         {"VERL_AGENT_ENV_REDIS": "redis://:pass@host/0"}),
        (["serve", "--redis=redis+sentinel://host/service?sentinel_password=pass"], ["serve"],
         {"VERL_AGENT_ENV_REDIS": "redis+sentinel://host/service?sentinel_password=pass"}),
        (["serve", "--redis-log", "redis://:pass@a", "--redis-log=redis+sentinel://b,c/service"], ["serve"],
         {"VERL_AGENT_ENV_REDIS_LOGS": json.dumps(["redis://:pass@a", "redis+sentinel://b,c/service"])}),
    ],
)  # fmt: skip
def test_secrets_move_to_variables(arguments: list[str], kept: list[str], variables: dict[str, str]) -> None:
    environment: dict[str, str] = {}
    assert without_secrets(arguments, environment) == kept
    assert environment == variables


@pytest.mark.parametrize(
    "arguments",
    [[], ["serve"], ["serve", "--port", "1"], ["serve", "--redis", "redis://host/0"], ["serve", "--auth-token", ""],
     ["serve", "--auth-token"], ["check-env", "--", "--token", "x"], ["serve", "--auth-tokens", "x"]],
)  # fmt: skip
def test_a_command_line_without_secrets_stays_as_it_is(arguments: list[str]) -> None:
    environment: dict[str, str] = {}
    assert without_secrets(arguments, environment) is None
    assert environment == {}
