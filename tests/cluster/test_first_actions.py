"""Episodes that began with actions outlive their workers, with all of these actions, once."""

from __future__ import annotations

from tests.cluster.conftest import StartNode
from tests.pool_process import kill_owner, step
from tests.waiting import eventually

ACTIONS = ["left", "no move", "left"]


def test_first_actions_are_kept_as_a_whole_and_asked_for_again_they_are_not_played_twice(
    start_node: StartNode,
) -> None:
    node = start_node("a")
    asked = {"env_name": "frozen_lake", "seed": 5, "actions": ACTIONS}
    headers = {"idempotency-key": "first"}
    answers = [client.post("/api/environment/initialize", json=asked, headers=headers) for client in node.at]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    env_id = answers[0].json()["env_id"]
    before = node.any.get(f"/api/environment/{env_id}/trajectory").json()
    assert [one["action"] for one in before["steps"]] == ACTIONS
    kill_owner(node.any, env_id)
    eventually(lambda: node.any.get(f"/api/environment/{env_id}").status_code == 200)
    assert node.any.get(f"/api/environment/{env_id}/trajectory").json() == before
    again = node.any.post("/api/environment/initialize", json=asked, headers=headers)
    assert again.json() == answers[0].json()
    assert step(node.any, env_id, "left", seq=3).status_code == 200
    # A step back, in one call, wherever it is asked for.
    undo = {"seed": 5, "actions": ACTIONS}
    undone = [
        client.post(f"/api/environment/{env_id}/reset", json=undo, headers={"x-operation-id": "undo"})
        for client in node.at
    ]
    assert undone[0].json() == undone[1].json()
    kill_owner(node.any, env_id)
    eventually(lambda: node.any.get(f"/api/environment/{env_id}").status_code == 200)
    state = node.any.get(f"/api/environment/{env_id}").json()
    assert state["seq"] == 3
    repeated = node.any.post(
        f"/api/environment/{env_id}/reset", json=undo, headers={"x-operation-id": "undo"}
    )
    assert repeated.json() == undone[0].json()
    assert node.any.get(f"/api/environment/{env_id}").json()["episode"] == state["episode"]
