"""Resources of a server, which the model reads with a tool, and the questions of a server, which nobody answers."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import pytest

from tests.children import ROOT
from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import PATIENT, message, told
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition

PROGRAM = ("-m", "tests.envs.mcp_chat.library_program")
TEXT_URI, PICTURE_URI = "library://tides", "library://map"
READ = "resources_read"


def library(*options: str, **fields: Any) -> ServerDefinition:
    given = {
        "command": sys.executable,
        "args": (*PROGRAM, *options),
        "cwd": str(ROOT),
        **PATIENT,
        **fields,
    }
    return ServerDefinition.model_validate({"name": "library", **given})


async def test_resources_are_named_and_read(started: Started) -> None:
    env = await started(library(resources=True))
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


async def test_a_server_need_not_know_of_templates(started: Started) -> None:
    env = await started(library("--no-templates", resources=True))
    observation, *_ = await env.astep(message((READ, {"uri": TEXT_URI})))
    assert "14:32" in told(observation)[0]


async def test_a_resource_that_is_not_there_is_an_error_for_the_model(started: Started) -> None:
    env = await started(library(resources=True))
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
    started: Started, fields: dict[str, Any], offered: list[str]
) -> None:
    env = await started(library(**fields))
    assert [tool.name for tool in env.tools] == offered


@pytest.mark.parametrize("method", ["elicitation/create", "sampling/createMessage", "roots/list"])
async def test_a_question_of_the_server_is_refused_and_its_tool_goes_on(
    started: Started, method: str
) -> None:
    env = await started(library())
    observation, *_, info = await env.astep(message(("ask", {"method": method})))
    assert "not supported" in orjson.loads(told(observation)[0])["error"]["message"]
    assert info["tool_errors"] == 0
