"""Check of environments with several seats: whose turn it is, what each seat gets, and that nobody acts out of turn."""

from __future__ import annotations

import random
from typing import Any, cast

import orjson

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.checker.report import CheckSkippedError, require
from verl_agent_env.envs.checker.subject import Subject
from verl_agent_env.envs.seats import SeatedEnv
from verl_agent_env.errors import SeatError, UnknownSeatError


def seats_kept(subject: Subject) -> str:
    """Play every seat by name and, beside it, the same moves without names: both must lead to the same states."""
    subject.chat_class()
    num_steps = num_seats = 0
    for seed in subject.seeds:
        named, plain = subject.build(), subject.build()
        if not isinstance(named, SeatedEnv) or named.num_seats == 1:
            raise CheckSkippedError("the environment has one seat")
        _, info = named.reset(seed=seed)
        plain.reset(seed=seed)
        num_seats = named.num_seats
        require(info.get("num_seats") == num_seats, "the info of a reset does not say num_seats")
        dice, totals = random.Random(seed), [0.0] * num_seats
        for _ in range(subject.num_steps):
            turn = named.turn()
            require(
                info.get("turn") == list(turn), f"the info says turn {info.get('turn')}, not {list(turn)}"
            )
            _require_turn(named, turn)
            action = named.sample_action(dice)
            result = named.step({"seat": turn[0], "action": action})
            other = plain.step(action)
            info = result[4]
            _require_rewards(named, turn[0], result, totals)
            require(
                result[1:] == other[1:] and _state_of(named) == _state_of(cast("SeatedEnv", plain)),
                "an action that names the seat in turn does something else than one without a seat",
            )
            num_steps += 1
            if result[2] or result[3]:
                require(info.get("turn") == [], "a seat is in turn after the end")
                break
        named.close()
        plain.close()
    return f"{num_seats} seats, {num_steps} moves"


def _require_turn(env: SeatedEnv, turn: tuple[int, ...]) -> None:
    """Require that seats are in turn, that looking changes nothing, and that others are refused without a change."""
    seats = range(env.num_seats)
    require(bool(turn) and set(turn) <= set(seats), f"in turn are {list(turn)}, of {env.num_seats} seats")
    before = _state_of(env)
    views = [env.seat_view(seat) for seat in seats]
    require(views == [env.seat_view(seat) for seat in seats], "two looks of a seat differ")
    for seat in (*(seat for seat in seats if seat not in turn), env.num_seats, -1):
        try:
            env.step({"seat": seat, "action": "1"})
        except SeatError as refused:
            is_right = isinstance(refused, UnknownSeatError) == (seat not in seats)
        else:
            is_right = False
        require(is_right, f"seat {seat} acts while {list(turn)} are in turn")
    require(_state_of(env) == before, "a look, or an action out of turn, has changed the state")
    if type(env).dump_state is not ChatEnv.dump_state:
        again = type(env)(arguments=env.arguments)
        again.restore(before)
        require(again.turn() == turn, "a restored snapshot has another turn")
        again.close()


def _state_of(env: SeatedEnv) -> bytes:
    """Return a snapshot, or what all seats see of an environment without a state."""
    if type(env).dump_state is ChatEnv.dump_state:
        return orjson.dumps([env.seat_view(seat) for seat in range(env.num_seats)])
    return env.snapshot()


def _require_rewards(env: SeatedEnv, seat: int, result: Any, totals: list[float]) -> None:
    _, reward, _, _, info = result
    rewards = info.get("rewards")
    require(
        isinstance(rewards, list) and len(rewards) == len(totals),
        f"info['rewards'] is {rewards}, not one number for each of {len(totals)} seats",
    )
    require(
        info.get("seat") == seat and reward == rewards[seat], "the reward is not that of the seat that acted"
    )
    for each, paid in enumerate(rewards):
        totals[each] += paid
        seen = env.seat_view(each)["reward"]
        require(seen == totals[each], f"seat {each} sees the reward {seen}, and got {totals[each]}")
