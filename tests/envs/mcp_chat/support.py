"""What the tests of MCP chat share: definitions of the test server, messages, and looks at processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from tests.waiting import HANG_S, until
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.types import Observation

PROGRAM = Path(__file__).with_name("server_program.py")
PATIENT = {"start_timeout_s": HANG_S, "call_timeout_s": HANG_S}
"""Limits of a server that a busy machine does not make it exceed."""
SECRET = 't0p-s3cret/with "quotes"'


def probe(*options: str, name: str = "probe", **fields: Any) -> ServerDefinition:
    """The test server over stdio."""
    given = {
        "command": sys.executable,
        "args": (str(PROGRAM), "stdio", *options),
        "stop_grace_s": 1.0,
        **PATIENT,
        **fields,
    }
    return ServerDefinition.model_validate({"name": name, **given})


def message(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """An assistant message with these tool calls, of the ids ``c0``, ``c1``, …"""
    made = [
        {
            "id": f"c{nth}",
            "type": "function",
            "function": {"name": name, "arguments": orjson.dumps(arguments).decode()},
        }
        for nth, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def told(observation: Observation) -> list[Any]:
    """What the messages say, in order."""
    return [said["content"] for said in observation]


def is_running(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


async def ended(*pids: int) -> bool:
    """Whether all of these processes end."""
    await until(lambda: not any(map(is_running, pids)), what=f"the end of {pids}")
    return True


def open_descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
