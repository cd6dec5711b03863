"""OpenEnv's WebSocket against a server process, by a light client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import ServerProcess, StartServer
from tests.server.api.wires.openenv.client import OpenEnvSocket
from tests.waiting import HANG_S, eventually

LAKE = "frozen_lake"
MAP = {"desc": ["SFFG"], "is_slippery": False, "include_task_prompt": False}
TOKEN = "openenv-token"


@pytest.fixture
def socket(server: ServerProcess) -> Iterator[OpenEnvSocket]:
    with OpenEnvSocket(server.url, LAKE) as connected:
        yield connected


def right(seq: int | None = None) -> dict[str, Any]:
    return {"text": "<action>right</action>"} | ({} if seq is None else {"metadata": {"seq": seq}})


def test_an_episode_from_reset_to_its_end(socket: OpenEnvSocket) -> None:
    begun = socket.reset(seed=3, **MAP)
    assert begun["observation"]["text"] == "P\tF\tF\tG"
    assert begun["observation"]["messages"] == [{"role": "user", "content": "P\tF\tF\tG"}]
    assert (begun["reward"], begun["done"], begun["metadata"]["seed"]) == (None, False, 3)
    socket.step(**right())
    socket.step(**right())
    ended = socket.step(**right())
    assert (ended["reward"], ended["done"]) == (1.0, True)
    assert ended["metadata"] == {
        **ended["metadata"], "success": True, "terminated": True, "truncated": False, "seq": 3,
    }  # fmt: skip


def test_done_means_truncated_too_which_the_metadata_tells(socket: OpenEnvSocket) -> None:
    socket.reset(**MAP, max_steps=1)
    ended = socket.step(**right())
    assert (ended["done"], ended["metadata"]["truncated"], ended["metadata"]["terminated"]) == (
        True,
        True,
        False,
    )


def test_the_same_seed_is_the_same_episode_as_over_http(socket: OpenEnvSocket, server: ServerProcess) -> None:
    begun = socket.reset(seed=17, env_kwargs={"size": 5})
    body = {"env_name": LAKE, "seed": 17, "env_kwargs": {"size": 5}}
    answer = httpx.post(f"{server.url}/api/environment/initialize", json=body, timeout=HANG_S)
    assert answer.json()["observation"] == begun["observation"]["messages"]


def test_tools_are_listed_before_the_first_reset_and_called(socket: OpenEnvSocket) -> None:
    listed = socket.step(type="list_tools")
    assert {tool["name"] for tool in listed["observation"]["tools"]} == {
        "move_left", "move_down", "move_right", "move_up",
    }  # fmt: skip
    assert set(listed["observation"]["tools"][0]) == {"name", "description", "input_schema"}
    socket.reset(**MAP)
    called = socket.step(type="call_tool", tool_name="move_right", arguments={})
    observation = called["observation"]
    assert (observation["tool_name"], observation["result"], observation["error"]) == (
        "move_right", "F\tP\tF\tG", None,
    )  # fmt: skip
    assert called["reward"] == 0.0


def test_an_assistant_message_is_an_action_as_it_is(socket: OpenEnvSocket) -> None:
    socket.reset(**MAP)
    call = {"id": "c1", "type": "function", "function": {"name": "move_right", "arguments": "{}"}}
    taken = socket.step(role="assistant", content="", tool_calls=[call])
    assert taken["observation"]["messages"] == [
        {"role": "tool", "tool_call_id": "c1", "content": "F\tP\tF\tG"}
    ]


def test_state_tells_the_session_and_the_episode(socket: OpenEnvSocket) -> None:
    assert socket.state() == {"episode_id": None, "step_count": 0}
    begun = socket.reset(episode_id="mine", **MAP)
    socket.step(**right())
    state = socket.state()
    assert (state["episode_id"], state["step_count"]) == ("mine", 1)
    assert state["session_id"] == state["env_id"] == begun["metadata"]["session_id"]


def test_a_reset_with_equal_arguments_keeps_the_session_and_with_others_makes_a_new_one(
    socket: OpenEnvSocket, server: ServerProcess
) -> None:
    first = socket.reset(seed=1, **MAP)["metadata"]["session_id"]
    assert socket.reset(seed=2, **MAP)["metadata"]["session_id"] == first
    assert socket.reset(seed=2, size=4)["metadata"]["session_id"] != first
    gone = httpx.get(f"{server.url}/api/environment/{first}", timeout=HANG_S)
    assert gone.json()["code"] == "environment_closed"


def test_steps_go_to_the_environment_of_the_last_reset(socket: OpenEnvSocket) -> None:
    for max_steps in (5, 6):
        begun = socket.reset(**MAP, max_steps=max_steps)
        taken = socket.step(**right())
        assert taken["metadata"]["session_id"] == begun["metadata"]["session_id"]
        assert (taken["metadata"]["num_steps"], taken["observation"]["text"]) == (1, "F\tP\tF\tG")


def test_a_task_can_be_what_an_episode_begins_with(socket: OpenEnvSocket, server: ServerProcess) -> None:
    target = f"{server.url}/api/environments/frozen_lake/tasks?split=test&offset=2&limit=1"
    [task] = httpx.get(target, timeout=HANG_S).json()["tasks"]
    assert socket.reset(task={"split": "test", "index": 2})["metadata"]["seed"] == task["seed"]


def test_a_step_that_is_sent_again_is_answered_as_the_first_time(socket: OpenEnvSocket) -> None:
    socket.reset(**MAP)
    first = socket.step(**right(0))
    assert socket.step(**right(0)) == first
    assert socket.state()["step_count"] == 1
    answer = socket.ask("step", right(5))
    assert answer["data"]["code"] == "EXECUTION_ERROR"
    assert answer["data"]["problem"]["code"] == "sequence_gap"


def test_a_step_before_the_first_reset_is_told_so(socket: OpenEnvSocket) -> None:
    refused = socket.ask("step", right())["data"]
    assert (refused["code"], refused["problem"]["code"]) == ("VALIDATION_ERROR", "episode_not_started")
    assert refused["message"] == "No episode has begun; call reset before step."


def test_a_dropped_connection_is_resumed_by_its_session(server: ServerProcess) -> None:
    with OpenEnvSocket(server.url, LAKE) as first:
        session_id = first.reset(**MAP)["metadata"]["session_id"]
        taken = first.step(**right(0))
        first.drop()
    with OpenEnvSocket(server.url, LAKE, f"?session_id={session_id}") as second:
        assert second.state()["step_count"] == 1
        assert second.step(**right(0)) == taken
        assert second.step(**right(1))["observation"]["text"] == "F\tF\tP\tG"
        assert second.ask("reset", {"size": 4})["data"]["code"] == "VALIDATION_ERROR"
        assert second.reset()["metadata"]["session_id"] == session_id


def test_the_number_to_send_next_counts_the_steps_of_all_clients_of_a_session(server: ServerProcess) -> None:
    with OpenEnvSocket(server.url, LAKE) as first:
        session_id = first.reset(**MAP)["metadata"]["session_id"]
        with OpenEnvSocket(server.url, LAKE, f"?session_id={session_id}") as second:
            assert first.step(**right())["metadata"]["seq"] == 1
            assert second.step(**right())["metadata"]["seq"] == 2
            assert first.state()["step_count"] == 2
            # A number that was taken meanwhile is refused, and changes nothing.
            answer = first.ask("step", {"text": "<action>left</action>", "metadata": {"seq": 1}})
            assert answer["data"]["problem"]["code"] == "sequence_conflict"
            ended = first.step(**right(2))
            assert (ended["done"], ended["metadata"]["seq"]) == (True, 3)
            assert second.ask("step", right())["data"]["problem"]["code"] == "episode_ended"


def test_the_number_to_send_next_is_told_over_http_too(server: ServerProcess) -> None:
    url = f"{server.url}/openenv/{LAKE}"
    with httpx.Client(timeout=HANG_S) as client:
        begun = client.post(f"{url}/reset", json={"env_kwargs": MAP}).json()
        body = {"session_id": begun["metadata"]["session_id"], "action": {"text": "<action>right</action>"}}
        seqs = [client.post(f"{url}/step", json=body).json()["metadata"]["seq"] for _ in range(2)]
    assert [begun["metadata"]["seq"], *seqs] == [0, 1, 2]


def test_closing_in_good_order_ends_the_environment(server: ServerProcess) -> None:
    with OpenEnvSocket(server.url, LAKE) as socket:
        session_id = socket.reset(**MAP)["metadata"]["session_id"]
        socket.connection.send('{"type":"close"}')
        with pytest.raises(ConnectionClosed) as closed:
            socket.connection.recv(HANG_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000
    answer = httpx.get(f"{server.url}/api/environment/{session_id}", timeout=HANG_S)
    assert answer.json()["code"] == "environment_closed"


def test_arguments_come_with_the_connection(server: ServerProcess) -> None:
    given = orjson.dumps(MAP).decode()
    with OpenEnvSocket(
        server.url, LAKE, f"?env_kwargs={httpx.URL('/', params={'x': given}).query.decode()[2:]}"
    ) as socket:
        assert socket.reset()["observation"]["text"] == "P\tF\tF\tG"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[]", "VALIDATION_ERROR"),
        ('{"type":"nope"}', "UNKNOWN_TYPE"),
        ('{"type":"step"}', "VALIDATION_ERROR"),
        ('{"type":"step","data":{"text":"up"}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":[]}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"seed":-1}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"size":0}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"nothing":1}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"env_kwargs":3}}', "VALIDATION_ERROR"),
    ],
)
def test_a_wrong_message_is_an_error_and_the_connection_stays(
    socket: OpenEnvSocket, text: str, code: str
) -> None:
    answer = socket.ask_raw(text)
    assert (answer["type"], answer["data"]["code"]) == ("error", code)
    assert answer["data"]["message"]
    assert socket.reset(**MAP)["observation"]["text"] == "P\tF\tF\tG"


@pytest.mark.parametrize(
    "action",
    [
        {},
        {"text": 3},
        {"text": "up", "extra": 1},
        {"text": "up", "metadata": 3},
        {"text": "up", "metadata": {"seq": -1}},
        {"type": "call_tool"},
        {"type": "call_tool", "tool_name": "move_up", "arguments": []},
        {"type": "call_tool", "tool_name": "reset", "arguments": {}},
    ],
)
def test_a_wrong_action_is_an_error_that_changes_nothing(
    socket: OpenEnvSocket, action: dict[str, Any]
) -> None:
    socket.reset(**MAP)
    assert socket.ask("step", action)["data"]["code"] == "VALIDATION_ERROR"
    assert socket.state()["step_count"] == 0


def test_json_rpc_uses_the_session_of_its_connection(socket: OpenEnvSocket) -> None:
    socket.reset(**MAP)
    request = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "move_right", "arguments": {}},
    }
    answer = socket.ask("mcp", request)
    assert (answer["type"], answer["data"]["id"]) == ("mcp", 7)
    assert answer["data"]["result"]["data"] == "F\tP\tF\tG"
    assert socket.state()["step_count"] == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?session_id=000-00000000000000000000000000000000", "SESSION_ERROR"),
        ("?session_id=a%2Fb", "VALIDATION_ERROR"),
        ("?env_kwargs=%5B%5D", "VALIDATION_ERROR"),
        ("?env_kwargs=%7B", "VALIDATION_ERROR"),
    ],
)
def test_a_connection_without_a_session_is_told_why_and_ends(
    server: ServerProcess, query: str, code: str
) -> None:
    with OpenEnvSocket(server.url, LAKE, query) as socket:
        answer = orjson.loads(socket.connection.recv(HANG_S))
        assert (answer["type"], answer["data"]["code"]) == ("error", code)
        with pytest.raises(ConnectionClosed):
            socket.connection.recv(HANG_S)


def test_at_capacity_the_client_is_told_so_and_the_connection_ends(start_server: StartServer) -> None:
    server = start_server("--max-envs", "1")
    with OpenEnvSocket(server.url, LAKE) as first, OpenEnvSocket(server.url, LAKE) as second:
        first.reset()
        assert second.ask("reset", {})["data"]["code"] == "CAPACITY_REACHED"
        with pytest.raises(ConnectionClosed):
            second.connection.recv(HANG_S)


@pytest.mark.parametrize(
    ("name", "status"), [("sokobn", 422), ("", 422)], ids=["an unknown environment", "no name"]
)
def test_a_path_without_an_environment_is_refused(server: ServerProcess, name: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        OpenEnvSocket(server.url, name)
    assert refused.value.response.status_code == status


def test_pages_of_other_sites_are_refused(server: ServerProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        OpenEnvSocket(server.url, LAKE, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    with OpenEnvSocket(server.url, LAKE, origin=server.url) as own:
        own.reset(**MAP)


def test_a_token_is_asked_for_and_sessions_are_their_holders(
    start_server: StartServer, tmp_path: Any
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(
        "ann read,run ann-token-0123456789\nben read,run ben-token-0123456789\nsee read see-token-0123456789\n"
    )
    server = start_server("--auth-file", str(tokens))

    def connected(token: str, query: str = "") -> OpenEnvSocket:
        return OpenEnvSocket(server.url, LAKE, query, additional_headers={"Authorization": f"Bearer {token}"})

    for token, status in (("nobody", 401), ("see-token-0123456789", 403)):
        with pytest.raises(InvalidStatus) as refused:
            connected(token)
        assert refused.value.response.status_code == status
    with connected("ann-token-0123456789") as ann:
        session_id = ann.reset(**MAP)["metadata"]["session_id"]
        with connected("ben-token-0123456789", f"?session_id={session_id}") as ben:
            assert orjson.loads(ben.connection.recv(HANG_S))["data"]["code"] == "SESSION_ERROR"
        assert ann.step(**right())["reward"] == 0.0


def test_compression_is_not_agreed_to(server: ServerProcess) -> None:
    with OpenEnvSocket(server.url, LAKE, compression="deflate") as socket:
        assert socket.connection.protocol.extensions == []


def test_a_connection_that_ends_is_no_longer_counted(start_server: StartServer) -> None:
    server = start_server("--max-connections-per-address", "4", "--trusted-proxies", "10.0.0.1")

    def connections() -> float:
        text = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text
        [line] = [line for line in text.splitlines() if line.startswith("verl_agent_env_connections ")]
        return float(line.split()[1])

    before = connections()
    for _ in range(8):
        with OpenEnvSocket(server.url, LAKE) as socket:
            socket.state()
    eventually(lambda: connections() == before)


def test_a_hostile_handshake_is_refused_and_others_are_served(server: ServerProcess) -> None:
    head = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    url = f"{server.url}/openenv/{LAKE}/ws"
    with httpx.Client(timeout=HANG_S) as client:
        assert client.get(url, headers={**head, "Cookie": "x" * 20_000}).status_code == 400
        assert client.get(url, headers=head).status_code == 400
        assert client.post(url, headers=head, content=b"{}").status_code == 400
    with OpenEnvSocket(server.url, LAKE) as socket:
        socket.reset(**MAP)


def test_a_message_that_is_too_large_ends_its_connection_alone(server: ServerProcess) -> None:
    with OpenEnvSocket(server.url, LAKE) as greedy, OpenEnvSocket(server.url, LAKE) as other:
        # What is not read any more may fail to be sent, and then the reason is lost, too.
        with contextlib.suppress(ConnectionClosed):
            greedy.connection.send("x" * (5 * 1024 * 1024))
        with pytest.raises(ConnectionClosed):
            greedy.connection.recv(HANG_S)
        other.reset(**MAP)
