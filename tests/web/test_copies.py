"""What the catalogue offers to copy is taken as it is: by Python, a shell, and verl."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.children import ROOT
from tests.web.scripts import evaluated, needs_node
from verl_agent_env.client.remote_env import RemoteEnv

SERVER = "http://127.0.0.1:8000/env/"
HOSTILE = {"text": 'it\'s "so"\n# é \u2028 😀 $(id) \\', "flag": True, "none": None, "list": [1, {"a": 0.5}]}
VERL_URL = "+data.env.url"

pytestmark = needs_node


def copies(folder: Path, **request: Any) -> dict[str, str]:
    """Return all texts for a request, by their names."""
    asked = orjson.dumps({"env_name": "verl_env/sokoban-v0", **request}).decode()
    made = f"Object.entries(COPIES).map(([name, write]) => [name, write({asked}, '{SERVER}')])"
    return dict(evaluated(folder, ("copies", "format"), "COPIES", made))


def overrides_in(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a configuration by their names with dots."""
    if not isinstance(config, dict):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= overrides_in(value, f"{prefix}.{key}" if prefix else key)
    return found


def test_the_yaml_for_verl_says_what_its_documentation_does(tmp_path: Path) -> None:
    found = overrides_in(yaml.safe_load(copies(tmp_path)["verl YAML"]))
    documented = (ROOT / "docs/verl.md").read_text().partition("```text\n")[2].partition("```")[0]
    wanted = dict(line.split("=", 1) for line in documented.splitlines())
    wanted |= {VERL_URL: SERVER.removesuffix("/")}
    wanted["actor_rollout_ref.rollout.agent.agent_loop_config_path"] = "agent_loop.yaml"
    for name, value in wanted.items():
        assert str(found.pop(name.removeprefix("+"))) == value, name
    # What is left composes it with verl's own defaults.
    assert found == {"hydra.searchpath": ["pkg://verl.trainer.config"], "defaults": ["ppo_trainer", "_self_"]}


def test_the_yaml_names_the_agent_loop_and_the_command_that_makes_its_data(tmp_path: Path) -> None:
    text = copies(tmp_path, env_kwargs=HOSTILE, seed=3)["verl YAML"]
    assert yaml.safe_load(text)["data"]["env"] == {"url": "http://127.0.0.1:8000/env"}
    comments = re.findall(r"^# {3}(.*)$", text, re.MULTILINE)
    command = shlex.split(comments[0])
    assert command[:3] == ["verl-agent-env", "curate", "verl_env/sokoban-v0"]
    assert orjson.loads(command[command.index("--env-kwargs") + 1]) == HOSTILE
    assert yaml.safe_load((ROOT / "examples/verl/agent_loop.yaml").read_text()) == yaml.safe_load(
        "\n".join(comments[2:])
    )


def test_what_is_copied_for_a_shell_is_the_request(tmp_path: Path) -> None:
    words = shlex.split(copies(tmp_path, env_kwargs=HOSTILE, seed=3)["curl"].replace("\\\n", ""))
    assert words[2] == f"{SERVER}api/environment/initialize"
    request = {"env_name": "verl_env/sokoban-v0", "env_kwargs": HOSTILE, "seed": 3}
    assert orjson.loads(words[-1]) == request


def test_what_is_copied_for_python_makes_the_same_environment(tmp_path: Path) -> None:
    imported, made, reset = ast.parse(copies(tmp_path, env_kwargs=HOSTILE, seed=3)["Python"]).body
    assert isinstance(imported, ast.ImportFrom)
    assert getattr(importlib.import_module(imported.module or ""), imported.names[0].name) is RemoteEnv
    url, name, given = arguments_of(made)
    inspect.signature(RemoteEnv).bind(url, name, **given)
    assert (url, name, given) == (SERVER, "verl_env/sokoban-v0", {"env_kwargs": HOSTILE})
    assert arguments_of(reset) == [{"seed": 3}]


def arguments_of(statement: ast.stmt) -> list[Any]:
    """Return the arguments of the call on the right of an assignment, those with names as a dictionary at the end."""
    assert isinstance(statement, ast.Assign)
    assert isinstance(statement.value, ast.Call)
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in statement.value.keywords}
    return [*map(ast.literal_eval, statement.value.args), named]
