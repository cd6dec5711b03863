"""Lines of a server that writes JSON as it likes."""

from __future__ import annotations

import sys

import pytest

from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import PATIENT, message, told
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition

PROGRAM = """
import json, os, sys
answer, pages = bytes.fromhex(sys.argv[1]), 0
for line in sys.stdin:
    asked = json.loads(line)
    name, number = asked.get("method"), json.dumps(asked.get("id")).encode()
    if name == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "rough", "version": "1"}}
    elif name == "tools/list":
        tool = {"name": "say", "inputSchema": {"type": "object"}}
        pages += 1
        result = {"tools": [tool, tool, {**tool, "name": f"page_{pages}"}], "nextCursor": "again"}
    elif name == "tools/call":
        os.write(1, answer.replace(b"ID", number) + b"\\n")
        continue
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def answer(text: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"' + text + b'"}]}}'


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (answer(b"a\\ud83db"), "a?b"),
        (answer(b"caf\xe9"), "caf\ufffd"),
        (answer("caf\u00e9 \U0001f600".encode()), "caf\u00e9 \U0001f600"),
        (answer(b"a\tb"), "a\tb"),
        (b"\xef\xbb\xbf" + answer(b"marked"), "marked"),
        (b'[{"jsonrpc":"2.0","method":"notifications/x"},5,' + answer(b"in a batch") + b"]", "in a batch"),
        (b"[" * 10_000 + b"\n{}\n\xff\n" + answer(b"after noise") + b"\r", "after noise"),
    ],
    ids=["half a character", "Latin-1", "UTF-8", "a tab", "a byte order mark", "a batch", "noise"],
)
async def test_an_answer_is_read_however_it_is_written(started: Started, line: bytes, shown: str) -> None:
    rough = {"name": "rough", "command": sys.executable, "args": ("-c", PROGRAM, line.hex()), **PATIENT}
    env = await started(ServerDefinition.model_validate({**rough, "protocol": "legacy"}))
    # It lists a tool twice on each page, and a page that follows itself.
    assert [tool.name for tool in env.tools] == ["say", "page_1", "page_2"]
    observation, *_, info = await env.astep(message(("say", {})))
    assert told(observation) == [shown]
    assert (info["tool_errors"], info["server_failures"]) == (0, 0)
