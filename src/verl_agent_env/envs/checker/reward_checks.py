"""Checks of rewards and costs: a solution succeeds, a meaningless answer does not, and costs are as declared."""

from __future__ import annotations

import time
from typing import Any, cast

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.checker.report import CheckFailedError, CheckSkippedError, require
from verl_agent_env.envs.checker.subject import Subject

_JUNK = (
    *("", " ", "I do not know.", "asdf", "None", "<answer></answer>", "<answer>?!</answer>", "\\boxed{}"),
    *("<answer>qwerty uiop</answer>", "<answer>lorem ipsum dolor</answer>", "<answer>???</answer>"),
)
"""Answers that are wrong for any question."""
_NUM_EPISODES = 6
_NUM_MEASURED = 12
_SLACK = 3.0
"""Factor by which the mean of the measured costs may exceed the declared one, as machines differ."""


def solutions_succeed(subject: Subject) -> str:
    """Check that the actions of ``solution()`` lead to success."""
    subject.chat_class()
    num_solved = 0
    for seed in subject.seeds:
        env = cast(ChatEnv, subject.build())
        env.reset(seed=seed)
        actions = env.solution()
        # A solution may take more steps than an episode has.
        if actions and len(actions) <= env.arguments.max_steps:
            results = [env.step(action) for action in actions]
            require(bool(results[-1][4].get("success")), f"the solution of seed {seed} is no success")
            num_solved += 1
        env.close()
    if not num_solved:
        raise CheckSkippedError("no solution is known that fits into an episode")
    return f"{num_solved} solutions succeeded"


def junk_unpaid(subject: Subject) -> str:
    """Check that a meaningless answer gets no reward if one answer in words is the whole episode."""
    subject.chat_class()
    env = cast(ChatEnv, subject.build())
    if env.tools or env.arguments.max_steps > 1:
        raise CheckSkippedError("an episode is more than one answer")
    solutions: list[list[Any]] = []
    for seed in range(_NUM_EPISODES):
        for junk in _JUNK:
            env.reset(seed=seed)
            _, reward, _, _, info = env.step(junk)
            require(
                float(reward) <= 0.0 and not info["success"],
                f"seed {seed} pays {reward} for the answer {junk!r}",
            )
        env.reset(seed=seed)
        solutions.append(env.solution() or [])
    paid = list(_paid_for_others(env, solutions))
    env.close()
    others = f"; answers of other episodes got {sum(paid) / len(paid):.2f} on average" if paid else ""
    return f"{_NUM_EPISODES * len(_JUNK)} meaningless answers unpaid{others}"


def _paid_for_others(env: ChatEnv, solutions: list[list[Any]]) -> Any:
    """Yield the rewards for the answers of other episodes that differ."""
    for seed, own in enumerate(solutions):
        for other in solutions:
            if other and other != own:
                env.reset(seed=seed)
                yield float(env.step(other[0])[1])


def costs_declared(subject: Subject) -> str:
    """Check that a call on a server's event loop costs no more than the kind declares."""
    chat_class = subject.chat_class()
    if subject.kind.fitting(subject.arguments).execution != "inline":
        raise CheckSkippedError("its calls do not run on the event loop")
    declared_ms = chat_class.cost_ms(subject.arguments)
    env = cast(ChatEnv, subject.build())
    policy = subject.policy(env, 0)
    env.reset(seed=0)
    reset_ms, step_ms = [], []
    for seed in range(1, _NUM_MEASURED + 1):
        reset_ms.append(_cpu_ms(lambda seed=seed: env.reset(seed=seed)))
        action = policy()
        step_ms.append(_cpu_ms(lambda action=action: env.step(action)))
    env.close()
    for what, measured in (("reset", reset_ms), ("step", step_ms)):
        mean_ms = sum(measured) / len(measured)
        if mean_ms > _SLACK * declared_ms:
            raise CheckFailedError(
                f"a {what} takes {mean_ms:.1f} ms of CPU time, cost_ms says {declared_ms:.1f}"
            )
    return f"resets and steps within the declared {declared_ms:.1f} ms"


def _cpu_ms(call: Any) -> float:
    before = time.process_time()
    call()
    return 1e3 * (time.process_time() - before)
