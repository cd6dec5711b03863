"""Seats: whose turn it is, what each sees and gets, and that nobody acts for another by mistake."""

from __future__ import annotations

from typing import Any

import pytest

from tests.envs.rock_paper_scissors import RockPaperScissorsEnv
from verl_agent_env.envs.connect_four import ConnectFourEnv
from verl_agent_env.errors import EpisodeEndedError, NotYourTurnError, UnknownSeatError


def game(**arguments: Any) -> ConnectFourEnv:
    env = ConnectFourEnv(opponent="self", **arguments)
    env.reset(seed=1)
    return env


def at(seat: int, action: Any) -> dict[str, Any]:
    return {"seat": seat, "action": action}


def drop(column: int) -> dict[str, Any]:
    call = {"name": "drop", "arguments": f'{{"column": {column}}}'}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "type": "function", "function": call}],
    }


def test_one_client_plays_all_seats_with_plain_steps() -> None:
    env = game()
    observation, info = env.reset(seed=1)
    assert (info["num_seats"], info["turn"]) == (2, [0])
    assert "You have seat 0. It is your turn." in observation[0]["content"]
    for column in "121212":
        observation, reward, terminated, _, info = env.step(column)
        assert (reward, terminated, info["rewards"]) == (0.0, False, [0.0, 0.0])
        # What comes back is what the seat in turn sees.
        assert f"You have seat {info['turn'][0]}. It is your turn." in observation[-1]["content"]
        assert info["seat"] == 1 - info["turn"][0]
    observation, reward, terminated, _, info = env.step("1")
    assert (reward, terminated, info["rewards"], info["successes"]) == (1.0, True, [1.0, -1.0], [True, False])
    assert (info["seat"], info["turn"], info["success"]) == (0, [], True)
    with pytest.raises(EpisodeEndedError):
        env.step("1")


def test_a_named_seat_sees_its_own_only() -> None:
    env = game()
    observation, *_ = env.step(at(0, drop(4)))
    assert [said["role"] for said in observation] == ["tool"]
    assert "Wait for the others" in observation[0]["content"]
    assert "You play O" not in observation[0]["content"]
    view = env.seat_view(1)
    assert (view["turn"], view["num_seats"], view["ended"], view["reward"]) == ([1], 2, False, 0.0)
    seen = view["observation"][0]["content"]
    assert "You play O." in seen
    assert "column 4" in seen
    # The task is told until the seat has acted.
    assert env.task_prompt() in seen
    env.step(at(1, "4"))
    assert env.task_prompt() not in env.seat_view(1)["observation"][0]["content"]


def test_a_call_of_a_tool_is_answered_to_who_made_it_and_the_next_seat_sees_the_game() -> None:
    env = game()
    observation, *_ = env.step(drop(4))
    assert [said["role"] for said in observation] == ["tool", "user"]
    assert "You have seat 1. It is your turn." in observation[1]["content"]


@pytest.mark.parametrize("named", [True, False])
def test_an_invalid_move_leaves_the_seat_in_turn_and_costs_it_alone(named: bool) -> None:
    env = game(invalid_action_reward=-0.5)
    observation, reward, _, _, info = env.step(at(0, "9") if named else "9")
    assert (reward, info["rewards"], info["turn"], info["action_is_valid"]) == (-0.5, [-0.5, 0.0], [0], False)
    assert "There is no column 9." in observation[0]["content"]
    assert "It is your turn" in observation[0]["content"]


@pytest.mark.parametrize("seat", [1, 2, -1, "0", True, None])
def test_a_seat_that_is_not_to_act_changes_nothing(seat: Any) -> None:
    env = game()
    before = env.snapshot()
    with pytest.raises(NotYourTurnError if seat == 1 and seat is not True else UnknownSeatError):
        env.step({"seat": seat, "action": "1"})
    assert env.snapshot() == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_seats_that_act_at_the_same_time_see_it_when_all_have_acted(order: tuple[int, int]) -> None:
    env = RockPaperScissorsEnv()
    env.reset(seed=1)
    shown = {0: "rock", 1: "scissors"}
    first, second = order
    _, reward, _, _, info = env.step(at(first, shown[first]))
    assert (reward, info["turn"], info["rewards"]) == (0.0, [second], [0.0, 0.0])
    assert shown[first] not in env.seat_view(second)["observation"][0]["content"].partition("\n\n")[2]
    with pytest.raises(NotYourTurnError):
        env.step(at(first, "paper"))
    _, reward, _, _, info = env.step(at(second, shown[second]))
    assert info["rewards"] == [1.0, -1.0]
    assert reward == info["rewards"][second]
    assert [env.seat_view(seat)["reward"] for seat in (0, 1)] == [1.0, -1.0]
    assert "you rock, the other scissors" in env.seat_view(0)["observation"][0]["content"]


def test_whose_turn_it_is_is_part_of_the_state() -> None:
    env = RockPaperScissorsEnv()
    env.reset(seed=1)
    env.step(at(1, "rock"))
    again = RockPaperScissorsEnv()
    again.restore(env.snapshot())
    assert again.turn() == (0,)
    assert again.step(at(0, "paper")) == env.step(at(0, "paper"))


def test_against_the_server_it_is_an_environment_of_one_player() -> None:
    env = ConnectFourEnv(opponent="block", seat=0)
    _, info = env.reset(seed=1)
    assert set(info) == {"seed"}
    for column in "111":
        _, _, _, _, info = env.step(column)
    assert set(info) == {"num_steps", "action_is_valid", "action_is_effective", "success"}
    # The server has blocked the column.
    assert env.dump_game()[0][0] == "XXXO"


@pytest.mark.parametrize("moves", ["1122334", "1212121", "12234334474", "76654554414"])
def test_lines_in_all_directions_win(moves: str) -> None:
    env = game()
    for column in moves[:-1]:
        assert env.step(column)[2] is False
    *_, terminated, _, info = env.step(moves[-1])
    assert (terminated, info["rewards"], info["seat"]) == (True, [1.0, -1.0], 0)


def test_a_full_board_is_a_draw() -> None:
    env = game(width=3, height=3, connect=4)
    for column in "123123123":
        *_, terminated, _, info = env.step(column)
    assert (terminated, info["rewards"], info["successes"]) == (True, [0.0, 0.0], [False, False])


def test_without_names_each_observation_is_that_of_the_seat_that_acts_next() -> None:
    env = RockPaperScissorsEnv()
    observation, info = env.reset(seed=1)
    for action in ("rock", "paper", "paper"):
        assert f"You have seat {info['turn'][0]}." in observation[-1]["content"]
        observation, _, _, _, info = env.step(action)
    assert info["turn"] == [1]
    assert "Round 0: you paper, the other rock." in observation[-1]["content"]


def test_weights_of_the_task_count_for_all_seats() -> None:
    env = game(reward_parts={"weights": {"task": 2.0}})
    for column in "121212":
        env.step(column)
    _, reward, _, _, info = env.step("1")
    assert (reward, info["rewards"]) == (2.0, [2.0, -2.0])
    assert [env.seat_view(seat)["reward"] for seat in (0, 1)] == [2.0, -2.0]


def test_an_invalid_move_is_a_part_of_its_own_and_of_its_seat_alone() -> None:
    parts = {"weights": {"invalid_action": 3.0}}
    env = game(invalid_action_reward=-0.5, reward_parts=parts)
    for fault in ("8", "north"):
        _, reward, _, _, info = env.step(fault)
        assert (reward, info["rewards"]) == (-1.5, [-1.5, 0.0])
        assert info["reward_parts"] == {"task": 0.0, "invalid_action": -1.5}
    env.step("1")
    _, reward, _, _, info = env.step("8")
    assert (reward, info["rewards"]) == (-1.5, [0.0, -1.5])
    ending = game(invalid_action_reward=-0.5, invalid_action_ends_episode=True)
    _, reward, terminated, _, info = ending.step("8")
    assert (reward, terminated, info["rewards"], info["turn"]) == (-0.5, True, [-0.5, 0.0], [])


def test_a_single_seat_is_an_environment_like_any_other() -> None:
    env = ConnectFourEnv(opponent="block", seat=0)
    _, info = env.reset(seed=1)
    assert "turn" not in info
    observation, _, _, _, info = env.step(at(0, drop(4)))
    assert "seat" not in info
    assert "You play X." in observation[0]["content"]
    assert env.seat_view(0)["num_steps"] == 1
    while not env.ended:
        result = env.step(env.sample_action(env.rng))  # type: ignore[arg-type]
    assert "has won" in result[0][-1]["content"] or "draw" in result[0][-1]["content"] or result[3]
    assert env.seat_view(0)["reward"] == result[1]
