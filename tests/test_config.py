"""Settings and the variables that set them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from verl_agent_env.config import (
    ClusterSettings,
    HostLimits,
    HttpLimits,
    ServerSettings,
    settings_from_environment,
    variable_of,
)


def test_without_variables_the_defaults_hold() -> None:
    assert settings_from_environment({"HOME": "/"}) == ServerSettings()


def test_every_plain_field_has_a_variable() -> None:
    numbers = {
        variable_of(field.name): "7"
        for group in (HostLimits, HttpLimits)
        for field in dataclasses.fields(group)
    }
    settings = settings_from_environment(numbers)
    for limits in (settings.host_limits, settings.http_limits):
        assert set(dataclasses.asdict(limits).values()) == {7}


def test_variables_are_read_as_their_fields_type() -> None:
    settings = settings_from_environment(
        {
            "VERL_AGENT_ENV_HOST": "::1",
            "VERL_AGENT_ENV_PORT": "9000",
            "VERL_AGENT_ENV_AUTH_TOKENS": "one, two,,",
            "VERL_AGENT_ENV_ACCESS_LOG": "Yes",
            "VERL_AGENT_ENV_MAX_STEP_S": "2.5",
        }
    )
    assert (settings.host, settings.port, settings.access_log) == ("::1", 9000, True)
    assert settings.auth_tokens == ("one", "two")
    assert settings.host_limits.max_step_s == 2.5


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    empty = {
        variable_of(field.name): ""
        for group in (ServerSettings, HttpLimits)
        for field in dataclasses.fields(group)
    }
    assert settings_from_environment(empty) == ServerSettings()


@pytest.mark.parametrize(
    ("name", "text"),
    [("PORT", "x"), ("PORT", "1.5"), ("PORT", "-1"), ("MAX_ENVS", "0"), ("MAX_STEP_S", "nan"), ("MAX_STEP_S", "inf"),
     ("ACCESS_LOG", "maybe"), ("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml"), ("KEEP_ALIVE_S", "0"),
     ("AUTH_TOKENS", "sécret"), ("AUTH_TOKENS", "a\x00b"),
     *(("TRUSTED_PROXIES", proxy) for proxy in ("a", "10.0.0.0/33", "*", "10.0.0.1:80")),
     *(("ALLOWED_HOSTS", host) for host in ("a:80", "http://a", "a b", "*.", "a*", "[::1]:80", "[a]")),
     *(("ALLOWED_ORIGINS", origin) for origin in ("*", "null", "a.example", "https://a.example/", "ftp://a.example",
                                                  "https://*.example", "https://a.example:x", "https://"))],
)  # fmt: skip
def test_a_bad_variable_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){name.rstrip('S')}|auth token"):
        settings_from_environment({f"VERL_AGENT_ENV_{name}": text})


@pytest.mark.parametrize("token", ["", " a", "a ", "a\nb", "ä"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="auth token"):
        ServerSettings(auth_tokens=(token,))


def test_hosts_and_origins_are_lists() -> None:
    settings = settings_from_environment(
        {
            "VERL_AGENT_ENV_ALLOWED_HOSTS": "a.example, *.b.example,[::1],*",
            "VERL_AGENT_ENV_ALLOWED_ORIGINS": "https://a.example,http://[::1]:3000",
        }
    )
    assert settings.allowed_hosts == ("a.example", "*.b.example", "[::1]", "*")
    assert settings.allowed_origins == ("https://a.example", "http://[::1]:3000")


def test_items_with_commas_are_a_list_of_json() -> None:
    settings = settings_from_environment({"VERL_AGENT_ENV_AUTH_TOKENS": ' ["a,b", "c"]'})
    assert settings.auth_tokens == ("a,b", "c")


@pytest.mark.parametrize("text", ['["secret"', '["secret", 1]', "[secret]"])
def test_tokens_do_not_show_in_what_is_printed(text: str) -> None:
    assert "secret" not in repr(ServerSettings(auth_tokens=("secret",)))
    with pytest.raises(ValueError, match="VERL_AGENT_ENV_AUTH_TOKENS cannot be read") as caught:
        settings_from_environment({"VERL_AGENT_ENV_AUTH_TOKENS": text})
    assert "secret" not in str(caught.value)


def test_proxies_are_addresses_and_networks() -> None:
    settings = settings_from_environment({"VERL_AGENT_ENV_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::1"})
    assert settings.trusted_proxies == ("10.0.0.0/8", "2001:db8::1")


def test_a_cluster_needs_both_a_name_and_a_redis() -> None:
    for name, value in (("NODE", "n1"), ("REDIS", "redis://127.0.0.1")):
        cluster = settings_from_environment({f"VERL_AGENT_ENV_{name}": value}).cluster
        with pytest.raises(ValueError, match="both a name"):
            cluster.require_whole()
    ClusterSettings(node="n1", redis="redis://127.0.0.1").require_whole()


def test_settings_of_a_node_are_read() -> None:
    cluster = settings_from_environment(
        {
            "VERL_AGENT_ENV_NODE": "node-1",
            "VERL_AGENT_ENV_REDIS": "redis://:secret@127.0.0.1",
            "VERL_AGENT_ENV_WORKERS": "4",
            "VERL_AGENT_ENV_WORKER_PORT": "8101",
        }
    ).cluster
    assert (cluster.node, cluster.workers, cluster.worker_port) == ("node-1", 4, 8101)
    assert cluster.is_pool
    assert "secret" not in repr(cluster)


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"worker_port": 70_000}, {"lease_s": 0.1}, {"node": "a b", "redis": "redis://x"}],
)
def test_cluster_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClusterSettings(**wrong)


def test_a_root_path_is_a_plain_path() -> None:
    assert settings_from_environment({"VERL_AGENT_ENV_ROOT_PATH": "/team/envs"}).root_path == "/team/envs"
    for wrong in ("envs", "/envs/", "//envs", "/a/../b", "http://host/envs", "/"):
        with pytest.raises(ValueError, match="root_path"):
            ServerSettings(root_path=wrong)
