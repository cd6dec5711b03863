"""Resources of a server, which the model reads with a tool, and the questions of a server, which nobody answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import PATIENT, message, told
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition

PROGRAM = Path(__file__).with_name("library_program.py")
TEXT_URI, PICTURE_URI = "library://tides", "library://map"
READ = "resources_read"


def library(folder: Path, **fields: Any) -> ServerDefinition:
    given = {"command": sys.executable, "args": (str(PROGRAM),), "cwd": str(folder), **PATIENT, **fields}
    return ServerDefinition.model_validate({"name": "library", **given})


async def test_resources_are_named_and_read(started: Started, tmp_path: Path) -> None:
    env = await started(library(tmp_path, resources=True))
    reading = next(tool for tool in env.tools if tool.name == READ)
    assert f"- {TEXT_URI}: tides. When the water is high" in reading.description
    assert "library://shelf/{number}" in reading.description
    # A model that is shown all of a library reads nothing else.
    assert reading.description.count("library://book/") < 50
    assert "22 more" in reading.description
    observation, *_, info = await env.astep(message((READ, {"uri": TEXT_URI}), (READ, {"uri": PICTURE_URI})))
    text, picture = told(observation)
    assert text == f"[Resource {TEXT_URI}]\nHigh water is at 14:32."
    assert picture[0]["type"] == "image_url"
    assert info["tool_errors"] == 0


async def test_a_resource_that_is_not_there_is_an_error_for_the_model(
    started: Started, tmp_path: Path
) -> None:
    env = await started(library(tmp_path, resources=True))
    observation, *_, info = await env.astep(message((READ, {"uri": "library://none"})))
    assert told(observation)[0].startswith("Error: ")
    assert (info["tool_errors"], info["server_failures"]) == (1, 0)


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        ({}, ["ask"]),
        ({"resources": True, "allowedTools": ["nothing"]}, [READ]),
        ({"resources": True, "deniedTools": ["resources/*"]}, ["ask"]),
    ],
    ids=["not asked for", "no other tool", "denied"],
)
async def test_the_operator_says_whether_they_are_offered(
    started: Started, tmp_path: Path, fields: dict[str, Any], offered: list[str]
) -> None:
    env = await started(library(tmp_path, **fields))
    assert [tool.name for tool in env.tools] == offered


@pytest.mark.parametrize("method", ["elicitation/create", "sampling/createMessage", "roots/list"])
async def test_a_question_of_the_server_is_refused_and_its_tool_goes_on(
    started: Started, tmp_path: Path, method: str
) -> None:
    env = await started(library(tmp_path))
    observation, *_, info = await env.astep(message(("ask", {"method": method})))
    assert "not supported" in orjson.loads(told(observation)[0])["error"]["message"]
    assert info["tool_errors"] == 0
