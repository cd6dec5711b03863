"""ORS against a server process, by a light client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartServer
from tests.server.api.wires.ors.client import OrsSession, events_in
from tests.waiting import HANG_S

MAP = {"desc": ["SFFG"], "is_slippery": False, "include_task_prompt": False}


@pytest.fixture
def session(http: httpx.Client) -> OrsSession:
    made = OrsSession(http, "frozen_lake")
    made.create(task_spec={"seed": 3, "env_kwargs": MAP})
    return made


def test_an_episode_from_its_prompt_to_its_end(session: OrsSession) -> None:
    assert session.ask("GET", "/prompt") == [{"type": "text", "text": "P\tF\tF\tG", "detail": None}]
    tools = session.ask("GET", "/task_tools")
    assert {tool["name"] for tool in tools["tools"]} >= {"move_left", "move_right"}
    assert tools["terminal_tool"] is None
    for _ in range(2):
        _, taken = session.call("move_right")
        assert (taken["ok"], taken["output"]["finished"]) == (True, False)
    _, ended = session.call("move_right")
    assert ended["output"] == {
        "blocks": [{"type": "text", "text": "F\tF\tF\tP", "detail": None}],
        "metadata": {**ended["output"]["metadata"], "success": True, "terminated": True, "truncated": False},
        "reward": 1.0,
        "finished": True,
    }
    _, late = session.call("move_right")
    assert (late["ok"], late["reason"]) == (False, "episode_finished")


def test_a_call_that_is_sent_again_is_answered_and_not_carried_out(
    session: OrsSession, http: httpx.Client
) -> None:
    call_id, first = session.call("move_right")
    assert session.call("move_right", call_id) == (call_id, first)
    assert http.get(f"/api/environment/{session.sid}").json()["seq"] == 1
    assert session.call("move_right")[0] != call_id
    assert http.get(f"/api/environment/{session.sid}").json()["seq"] == 2


def test_a_session_is_made_once_however_often_it_is_asked_for(session: OrsSession) -> None:
    session.call("move_right")
    session.create(task_spec={"seed": 3, "env_kwargs": MAP})
    assert session.call("move_right")[1]["output"]["blocks"][0]["text"] == "F\tF\tP\tG"


def test_a_task_of_a_split_is_what_the_api_has_under_it(http: httpx.Client) -> None:
    [task] = http.get("/api/environments/frozen_lake/tasks?split=test&offset=3&limit=1").json()["tasks"]
    for body in ({"split": "test", "index": 3}, {"task_spec": {"split": "test", "index": 3, "id": "test/3"}}):
        session = OrsSession(http, "frozen_lake")
        session.create(**body)
        assert http.get(f"/api/environment/{session.sid}").json()["seed"] == task["seed"]


def test_environments_without_tools_take_the_models_message(http: httpx.Client) -> None:
    session = OrsSession(http, "single_turn_chat")
    arguments = {"task_prompt": "What is 2 + 2?", "scorer": {"type": "exact_match", "answer": "4"}}
    session.create(task_spec={"env_kwargs": arguments})
    tools = session.ask("GET", "/task_tools")
    assert (tools["tools"], tools["terminal_tool"]["name"], tools["terminal_tool"]["arg"]) == (
        [],
        "answer",
        "text",
    )
    _, taken = session.call("answer", text="4")
    assert (taken["output"]["reward"], taken["output"]["finished"]) == (1.0, True)


def test_a_wrong_call_is_an_observation_as_everywhere(session: OrsSession) -> None:
    _, taken = session.call("fly", height=3)
    assert taken["ok"]
    assert taken["output"]["metadata"]["action_is_valid"] is False


@pytest.mark.parametrize("prefix", ["", "/ors", "/ors/frozen_lake", "/ors/verl_env/frozen_lake-v1"])
def test_tasks_are_listed_by_split(http: httpx.Client, prefix: str) -> None:
    headers = {"X-Deployment": "verl_env/frozen_lake-v1"}

    def ask(verb: str, body: Any = None) -> Any:
        answer = http.request(
            "GET" if body is None else "POST", f"{prefix}/{verb}", headers=headers, json=body
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert ask("splits") == [{"name": "train", "type": "train"}, {"name": "test", "type": "test"}]
    assert ask("num_tasks", {"split": "train"}) == {"num_tasks": 10_000}
    listed = ask("tasks", {"split": "train"})
    assert (len(listed["tasks"]), listed["env_name"]) == (10_000, "frozen_lake-v1")
    assert ask("task", {"split": "test", "index": 123_456})["task"]["index"] == 123_456
    ranged = ask("task_range", {"split": "test", "start": -2})["tasks"]
    assert [task["index"] for task in ranged] == [9_998, 9_999]
    assert {tool["name"] for tool in ask("tools")["tools"]} >= {"move_left"}


def test_a_session_is_kept_by_pings_and_ends_when_it_is_deleted(
    session: OrsSession, http: httpx.Client
) -> None:
    assert http.get(f"/api/environment/{session.sid}").json()["ttl_s"] == 900.0
    assert session.ask("POST", "/ping") == {"status": "ok"}
    assert session.ask("POST", "/delete") == session.ask("POST", "/delete_session") == {"sid": session.sid}
    assert session.send("POST", "/ping").status_code == 404
    unmade = OrsSession(http, "frozen_lake")
    assert unmade.ask("POST", "/delete") == {"sid": unmade.sid}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/create", {}, 422),
        ("POST", "/create", {"split": "train"}, 422),
        ("POST", "/create", {"task_spec": {}, "split": "train", "index": 1}, 422),
        ("POST", "/create", {"split": "dev", "index": 1}, 404),
        ("POST", "/create", {"env_name": "sokobn", "split": "train", "index": 1}, 422),
        ("POST", "/create", {"task_spec": {"env_kwargs": {"size": 0}}}, 422),
        ("POST", "/task", {"split": "train", "index": -1}, 404),
        ("POST", "/tasks", {"split": "dev"}, 404),
        ("POST", "/call", {"name": "move_right"}, 422),
        ("GET", "/prompt", None, 404),
        ("POST", "/ping", None, 404),
        ("GET", "/nothing", None, 404),
    ],
)
def test_what_cannot_be_is_said(http: httpx.Client, method: str, path: str, body: Any, status: int) -> None:
    answer = OrsSession(http, "frozen_lake").send(method, path, body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_a_call_in_a_session_that_is_gone_is_an_error_event(http: httpx.Client) -> None:
    answer = OrsSession(http, "frozen_lake").send("POST", "/call", {"name": "move_right", "input": {}})
    assert [kind for kind, _ in events_in(answer.text)] == ["task_id", "error"]


def test_the_key_of_ors_is_a_token_and_sessions_are_their_holders(
    start_server: StartServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ann read,run ann-token-0123456789\nben read,run ben-token-0123456789\n")
    server = start_server("--auth-file", str(tokens))
    with httpx.Client(base_url=server.url, timeout=HANG_S) as http:
        assert http.post("/create_session", headers={"X-Deployment": "frozen_lake"}).status_code == 401
        ann = OrsSession(http, "frozen_lake", **{"X-API-Key": "ann-token-0123456789"})
        ann.create(task_spec={"seed": 3, "env_kwargs": MAP})
        assert ann.call("move_right")[1]["ok"]
        ben = {**ann.headers, "X-API-Key": "ben-token-0123456789"}
        assert http.post("/ping", headers=ben).status_code == 404
