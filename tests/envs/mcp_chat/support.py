"""What the tests of MCP chat share: definitions of the test server, messages, and looks at processes."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.types import Observation

PROGRAM = Path(__file__).with_name("server_program.py")
SECRET = 't0p-s3cret/with "quotes"'


def probe(*options: str, name: str = "probe", **fields: Any) -> ServerDefinition:
    """The test server over stdio."""
    given = {
        "command": sys.executable,
        "args": (str(PROGRAM), "stdio", *options),
        "stop_grace_s": 1.0,
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


async def ended(*pids: int, within_s: float = 5.0) -> bool:
    """Whether all of these processes end in time."""
    end = time.monotonic() + within_s
    while any(map(is_running, pids)):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True


def open_descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
