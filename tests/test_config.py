"""Settings and the variables that set them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from verl_agent_env.config import (
    HostLimits,
    HttpLimits,
    ServerSettings,
    settings_from_environment,
    variable_of,
)


def test_no_variables_give_the_defaults() -> None:
    assert settings_from_environment({"PATH": "/bin"}) == ServerSettings()


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("PORT", "9000", "port", 9000),
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("AUTH_TOKENS", "a, b,,c", "auth_tokens", ("a", "b", "c")),
        ("ACCESS_LOG", "Yes", "access_log", True),
        ("ACCESS_LOG", "0", "access_log", False),
        ("MAX_ENVS", "5", "host_limits.max_envs", 5),
        ("MAX_STEP_S", "0.5", "host_limits.max_step_s", 0.5),
        ("DEFAULT_TTL_S", "60", "host_limits.default_ttl_s", 60.0),
        ("MAX_BATCH_SIZE", "7", "http_limits.max_batch_size", 7),
    ],
)
def test_variable_sets_its_field(variable: str, text: str, path: str, value: Any) -> None:
    found: Any = settings_from_environment({f"VERL_AGENT_ENV_{variable}": text})
    for name in path.split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "many"),
        ("PORT", "1.5"),
        ("PORT", "70000"),
        ("MAX_ENVS", "0"),
        ("MAX_ENVS", "-3"),
        ("MAX_STEP_S", "nan"),
        ("ACCESS_LOG", "maybe"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("KEEP_ALIVE_S", "0"),
        ("MAX_BODY_BYTES", "0"),
    ],
)
def test_wrong_variable_is_refused_by_name(variable: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)" + variable):
        settings_from_environment({f"VERL_AGENT_ENV_{variable}": text})


@pytest.mark.parametrize("limits", [HostLimits, HttpLimits])
def test_every_limit_must_be_above_zero(limits: type[HostLimits] | type[HttpLimits]) -> None:
    for declared in dataclasses.fields(limits):
        for value in (0, -1):
            with pytest.raises(ValueError, match=declared.name):
                limits(**{declared.name: value})


def test_no_two_fields_share_a_variable() -> None:
    names = [
        declared.name
        for settings in (ServerSettings, HostLimits, HttpLimits)
        for declared in dataclasses.fields(settings)
    ]
    variables = [variable_of(name) for name in names]
    assert len(set(variables)) == len(variables)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerSettings().port = 1  # type: ignore[misc]


def test_empty_token_is_refused() -> None:
    with pytest.raises(ValueError, match="token"):
        ServerSettings(auth_tokens=("a", ""))


def test_tokens_do_not_show() -> None:
    assert "hush" not in repr(ServerSettings(auth_tokens=("hush",)))
