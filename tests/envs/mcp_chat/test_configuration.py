"""The operator's file: what it may say, what it refers to, and that it never tells its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from verl_agent_env.envs.commands import commands_check
from verl_agent_env.envs.mcp_chat.configuration import (
    COMMANDS_VARIABLE,
    CONFIG_VARIABLE,
    Configuration,
    configuration_in_use,
    read_configuration,
    refuse_commands,
    use_configuration,
)
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ConfigurationError

SECRET = "the-very-secret-token"


def written(tmp_path: Path, servers: Any) -> Path:
    path = tmp_path / "mcp.json"
    path.write_bytes(orjson.dumps({"mcpServers": servers}))
    return path


def test_usual_file_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "time": {"command": "mcp-server-time", "args": ["--local-timezone", "UTC"], "autoApprove": []},
            "docs": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer x"}},
            "old": {"url": "https://example.org/sse"},
            "remote": {"type": "streamable-http", "url": "https://example.org/sse"},
            "off": {"command": "x", "disabled": True},
        },
    )
    servers = read_configuration(path, {}).servers
    assert {name: each.type for name, each in servers.items()} == {
        "time": "stdio",
        "docs": "http",
        "old": "sse",
        "remote": "http",
    }
    assert servers["time"].args == ("--local-timezone", "UTC")


def test_references_to_variables_are_filled_and_hidden(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"a": {"command": "run", "args": ["--key=${KEY}", "--port=${PORT:-8080}"], "env": {"K": "${KEY}"}}},
    )
    server = read_configuration(path, {"KEY": SECRET}).servers["a"]
    assert server.args == (f"--key={SECRET}", "--port=8080")
    assert server.env == {"K": SECRET}
    assert server.redactor.hide(f"I got {SECRET}.") == "I got [hidden]."


@pytest.mark.parametrize(
    ("servers", "place"),
    [
        ({"a": {"command": "${MISSING}"}}, "MISSING"),
        ({"a": {"command": "x", "allowedTool": ["y"]}}, "allowedTool"),
        ({"a": {"args": [SECRET]}}, "command"),
        ({"a": {"command": "x", "url": f"https://{SECRET}"}}, "command"),
        ({"a": {"type": "http", "url": f"file:///{SECRET}"}}, "http"),
        ({"a": {"command": "x", "env": {"K": [SECRET]}}}, "env"),
        ({"a": {"command": "x", "callTimeoutS": -1}}, "callTimeoutS"),
        ({"a b": {"command": "x"}}, "a b"),
        ({"a": SECRET}, "mcpServers.a"),
    ],
)
def test_wrong_file_is_refused_with_the_place_and_without_values(
    tmp_path: Path, servers: Any, place: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(written(tmp_path, servers), {})
    assert place in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [b"{not json " + SECRET.encode(), b"[]", b'{"servers": {}}', None])
def test_file_of_another_form_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mcp.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(path, {})
    assert SECRET not in str(caught.value)


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "a": {"command": "run", "args": [SECRET], "env": {"K": SECRET}},
            "b": {"url": f"https://u:{SECRET}@host/mcp?key={SECRET}", "headers": {"X": f"Bearer {SECRET}"}},
        },
    )
    configuration = read_configuration(path, {})
    assert SECRET not in repr(configuration)
    assert configuration.servers["b"].redactor.hide(f"{SECRET} Bearer {SECRET}") == "[hidden] [hidden]"


def test_file_is_found_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(written(tmp_path, {"a": {"command": "x"}})))
    use_configuration(None)
    assert list(configuration_in_use().servers) == ["a"]
    assert not configuration_in_use().commands_allowed


def test_configuration_that_is_handed_in_wins_over_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, "/nowhere")
    given = Configuration({"a": ServerDefinition(name="a", command="x")}, commands_allowed=True)
    use_configuration(given)
    try:
        assert configuration_in_use() is given
    finally:
        use_configuration(None)
    with pytest.raises(ConfigurationError, match="/nowhere"):
        configuration_in_use()


def test_commands_are_allowed_by_a_flag_of_a_local_server_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(COMMANDS_VARIABLE, "1")
    use_configuration(None)
    assert configuration_in_use().commands_allowed
    for _ in range(2):
        refuse_commands("it is reached from elsewhere")
        assert not configuration_in_use().commands_allowed
    assert [record.getMessage() for record in caplog.records] == [
        f"ignoring {COMMANDS_VARIABLE}: it is reached from elsewhere"
    ]
    use_configuration(None)


def test_a_call_that_may_not_name_commands_sees_none_allowed() -> None:
    use_configuration(Configuration(commands_allowed=True))
    reset = commands_check.set(lambda: "the request came through a proxy")
    try:
        assert not configuration_in_use().commands_allowed
    finally:
        commands_check.reset(reset)
    assert configuration_in_use().commands_allowed
    use_configuration(None)


def test_nothing_is_configured_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    use_configuration(None)
    assert configuration_in_use() == Configuration()
