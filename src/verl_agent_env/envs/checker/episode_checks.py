"""Checks of episodes: determinism, snapshots, independence, results, and leaks of the solution."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import orjson

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.checker.elsewhere import digest_elsewhere
from verl_agent_env.envs.checker.malformed import malformed_actions
from verl_agent_env.envs.checker.report import CheckFailedError, CheckSkippedError, require
from verl_agent_env.envs.checker.subject import Env, Subject, digest_of, first_difference, to_json

MAX_SNAPSHOT_BYTES = 64 * 1024
MAX_STEP_S = 5.0

_SPOILING_KEYS = frozenset({"solution", "solutions", "answer", "answers", "ground_truth", "target_equation"})


def same_seed(subject: Subject) -> str:
    """Check that the same seed and actions give the same episode again."""
    subject.same_here = False
    difference = first_difference(subject.play_all(), subject.play_all())
    subject.same_here = difference is None
    if difference is not None and not subject.kind.deterministic:
        raise CheckSkippedError(f"the class does not claim to be deterministic, and is not: {difference}")
    require(difference is None, f"the same seed and actions give another episode: {difference}")
    return f"{len(subject.seeds)} episodes came out the same twice"


def other_process(subject: Subject) -> str:
    """Check that other processes, with other hash seeds, play the same episodes."""
    here = digest_of(subject.play_all())
    subject.same_elsewhere = False
    subject.same_elsewhere = all(digest_elsewhere(subject, hash_seed) == here for hash_seed in (1, 2))
    if not subject.same_elsewhere and not subject.kind.deterministic:
        raise CheckSkippedError("the class does not claim to be deterministic, and another process differs")
    require(
        subject.same_elsewhere,
        "another process plays another episode: look for hash(), the order of a set, the clock or global state",
    )
    return "two other processes played the same episodes"


def global_random(subject: Subject) -> str:
    """Check that the global random generators of Python and NumPy are not used."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        # A state that no environment sets by accident.
        random.seed("verl_agent_env.envs.checker")
        np.random.seed(0x5EED)
        before = random.getstate(), repr(np.random.get_state())
        subject.play_all()
        after = random.getstate(), repr(np.random.get_state())
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    require(after[0] == before[0], "the environment uses Python's global random generator; use self.rng")
    require(after[1] == before[1], "the environment uses NumPy's global random generator; use self.np_random")
    return "untouched"


def independent_instances(subject: Subject) -> str:
    """Check that two instances with interleaved steps play the same as each alone."""
    if subject.same_here is False:
        raise CheckSkippedError("episodes are not reproducible, so there is nothing to compare with")
    seeds = (subject.seeds[0], subject.seeds[-1] + 1)
    alone = [subject.play(subject.build(), seed) for seed in seeds]
    players = [_play_lazily(subject, seed) for seed in seeds]
    mixed: list[list[bytes]] = [[], []]
    open_ones = [0, 1]
    while open_ones:
        for which in list(open_ones):
            line = next(players[which], None)
            if line is None:
                open_ones.remove(which)
            else:
                mixed[which].append(line)
    for expected, got in zip(alone, mixed, strict=True):
        difference = first_difference(expected, got)
        require(difference is None, f"another instance changes the episode: {difference}")
    return "two mixed episodes equal themselves played alone"


def snapshots(subject: Subject) -> str:
    """Check that a snapshot of any step, restored into a new instance, continues the episode exactly."""
    subject.chat_class()
    largest = num_restored = 0
    for seed in subject.seeds:
        env = cast(ChatEnv, subject.build())
        policy = subject.policy(env, seed)
        env.reset(seed=seed)
        try:
            taken = [env.snapshot()]
        except NotImplementedError:
            raise CheckSkippedError(
                "dump_state is not written: a lost instance is replayed instead"
            ) from None
        actions: list[Any] = []
        lines: list[bytes] = []
        while len(actions) < subject.num_steps and not env.ended:
            actions.append(policy())
            lines.append(to_json(env.step(actions[-1])))
            require(env.snapshot() == env.snapshot(), "two snapshots of one moment differ")
            taken.append(env.snapshot())
        largest = max(largest, *(len(snapshot) for snapshot in taken))
        following = to_json(env.reset()) if env.ended else None
        for number in _positions(len(taken), subject.figures.us_per_step):
            _require_continuation(subject, taken[number], actions[number:], lines[number:], following)
            num_restored += 1
        env.close()
    subject.figures.snapshot_bytes = largest
    require(
        largest <= MAX_SNAPSHOT_BYTES, f"a snapshot takes {largest} bytes, more than {MAX_SNAPSHOT_BYTES}"
    )
    return f"{num_restored} snapshots restored, {largest} bytes at most"


def malformed(subject: Subject) -> str:
    """Check that malformed actions get a valid observation and a finite reward, without an exception."""
    env = subject.build()
    tools: Sequence[Any] = getattr(env, "tools", ())
    num_tried = 0
    slowest = 0.0
    env.reset(seed=subject.seeds[0])
    for description, action in malformed_actions(tools[0].name if tools else "move"):
        if not subject.kind.is_chat_env and not env.action_space.contains(action):
            continue
        # CPU time of this process, not wall time: other load of the machine is no fault of the environment.
        before = time.process_time()
        try:
            result = env.step(action)
            to_json(result)
        except Exception as raised:
            raise CheckFailedError(f"{description}: {type(raised).__name__}: {str(raised)[:200]}") from raised
        slowest = max(slowest, time.process_time() - before)
        require(slowest < MAX_STEP_S, f"{description}: took {slowest:.1f} s of CPU time")
        _require_valid(env, result, description)
        num_tried += 1
        if result[2] or result[3]:
            env.reset(seed=subject.seeds[0])
    env.close()
    return f"{num_tried} actions answered, the slowest in {1e3 * slowest:.1f} ms"


def results_valid(subject: Subject) -> str:
    """Check that observations are in their space, rewards finite, flags boolean, infos JSON, and that nothing is shared."""
    for seed in subject.seeds:
        env = subject.build()
        policy = subject.policy(env, seed)
        first = env.reset(seed=seed)
        require(env.observation_space.contains(first[0]), f"reset: {first[0]!r:.200} is not in the space")
        results: list[Any] = [(first[0], first[1])]
        for number in range(subject.num_steps):
            result = env.step(policy())
            _require_valid(env, result, f"step {number}")
            results.append((result[0], result[4]))
            if result[2] or result[3]:
                break
        results.append(env.reset(seed=seed))
        seen: dict[int, int] = {}
        for number, result in enumerate(results):
            for part in _containers(list(result)):
                earlier = seen.setdefault(id(part), number)
                require(earlier == number, f"results {earlier} and {number} share an object: {part!r:.100}")
        env.close()
    return "valid, and no object is shared between two results"


def no_solution(subject: Subject) -> str:
    """Check that neither info nor observation reveals the solution."""
    num_secrets = 0
    for seed in subject.seeds:
        env = subject.build()
        policy = subject.policy(env, seed)
        observation, info = env.reset(seed=seed)
        num_secrets += _require_discreet(env, observation, info, None)
        for _ in range(subject.num_steps):
            action = policy()
            observation, _, terminated, truncated, info = env.step(action)
            num_secrets += _require_discreet(env, observation, info, action)
            if terminated or truncated:
                break
        env.close()
    return f"{num_secrets} known secrets looked for, and keys of the info that sound like a solution"


# --- inner workings -----------------------------------------------------------------------------------------


def _play_lazily(subject: Subject, seed: int) -> Iterator[bytes]:
    env = subject.build()
    policy = subject.policy(env, seed)
    yield to_json(env.reset(seed=seed))
    for _ in range(subject.num_steps):
        result = env.step(policy())
        yield to_json(result)
        if result[2] or result[3]:
            return


def _positions(count: int, us_per_step: float | None) -> range:
    """Return all positions if steps are cheap; a dozen if an episode takes long to replay."""
    cheap = us_per_step is None or us_per_step * count * count < 2e6
    return range(0, count, 1 if cheap else max(1, count // 12))


def _require_continuation(
    subject: Subject, snapshot: bytes, actions: list[Any], lines: list[bytes], following: bytes | None
) -> None:
    require(len(snapshot) <= MAX_SNAPSHOT_BYTES, f"a snapshot takes {len(snapshot)} bytes")
    orjson.loads(snapshot)
    env = cast(ChatEnv, subject.build())
    env.restore(snapshot)
    require(env.snapshot() == snapshot, "the snapshot of a restored instance is another one")
    got = [to_json(env.step(action)) for action in actions]
    difference = first_difference(lines, got)
    require(difference is None, f"a restored instance goes another way: {difference}")
    if following is not None:
        require(env.ended, "a restored instance does not end where the episode did")
        require(
            to_json(env.reset()) == following,
            "the episode after that of a restored instance is another one",
        )
    env.close()


def _require_valid(env: Env, result: Any, when: str) -> None:
    require(
        isinstance(result, tuple) and len(result) == 5, f"{when}: step gave {result!r:.100}, not five values"
    )
    observation, reward, terminated, truncated, info = result
    require(
        env.observation_space.contains(observation),
        f"{when}: {observation!r:.200} is not in the observation space",
    )
    require(
        isinstance(reward, int | float | np.floating | np.integer) and math.isfinite(reward),
        f"{when}: the reward is {reward!r}",
    )
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        require(isinstance(flag, bool | np.bool_), f"{when}: {name} is {flag!r}, not a truth value")
    require(isinstance(info, dict), f"{when}: the info is {info!r:.100}, not a dict")
    to_json(result)


def _containers(value: Any) -> Iterator[Any]:
    """Yield all mutable objects inside a list."""
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield inner
            yield from _containers(inner)
        elif isinstance(inner, np.ndarray):
            yield inner


def _require_discreet(env: Env, observation: Any, info: dict[str, Any], action: Any) -> int:
    """Search for secrets in the results that model and trainer see; return the number of secrets."""
    spoilers = [key for key in info if str(key).casefold() in _SPOILING_KEYS]
    require(
        not spoilers, f"the info has the key '{(spoilers or [''])[0]}'; it must never give the solution away"
    )
    if not isinstance(env, ChatEnv):
        return 0
    secrets = [secret for secret in env.secrets() if secret]
    said = list(_texts(action))
    shown = [*_texts(observation), *_texts(info)]
    for secret in secrets:
        # The model's own words may be repeated to it.
        if not any(secret in text for text in said):
            require(not any(secret in text for text in shown), f"the secret {secret!r:.100} is shown")
    solution = env.solution()
    if solution:
        require(
            not any(part == solution for part in _containers([info])),
            "the info holds the actions of solution()",
        )
    return len(secrets) + bool(solution)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
