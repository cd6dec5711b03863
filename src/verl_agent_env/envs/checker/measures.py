"""Measurements of the costs of an environment."""

from __future__ import annotations

import gc
import time
import tracemalloc

from verl_agent_env.envs.checker.subject import Env, Subject

_TIME_BUDGET_S = 0.5
_MAX_ROUNDS = 2_000
_MAX_INSTANCES = 200
_MEMORY_CPU_S, _MEMORY_S = 1.0, 20.0
"""Limits, in CPU time and wall time, after which no more instances are made."""


def measure_time(subject: Subject) -> None:
    """Measure the mean time of a step and of a reset, each over half a second or 2,000 of them."""
    env = subject.build()
    policy = subject.policy(env, 0)
    env.reset(seed=0)
    step_s, num_steps, num_resets, reset_s = 0.0, 0, 0, 0.0
    while num_steps < _MAX_ROUNDS and step_s < _TIME_BUDGET_S:
        action = policy()
        before = time.perf_counter()
        result = env.step(action)
        step_s += time.perf_counter() - before
        num_steps += 1
        if result[2] or result[3]:
            env.reset(seed=num_steps)
    while num_resets < _MAX_ROUNDS and reset_s < _TIME_BUDGET_S:
        # New seeds, so that caches of levels do not help.
        before = time.perf_counter()
        env.reset(seed=1_000_000 + num_resets)
        reset_s += time.perf_counter() - before
        num_resets += 1
    env.close()
    subject.figures.us_per_step = 1e6 * step_s / num_steps
    subject.figures.us_per_reset = 1e6 * reset_s / num_resets


def measure_memory(subject: Subject) -> None:
    """Measure the memory of an instance, the mean of up to 200 at the beginning of different episodes."""
    if tracemalloc.is_tracing():
        # Another tracer is active; its allocations would be counted too.
        return
    warm = subject.build()
    warm.reset(seed=2_000_000)
    envs: list[Env] = []
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        # CPU time of this process: the number of instances must not depend on the load of the machine.
        cpu_end, end = time.process_time() + _MEMORY_CPU_S, time.perf_counter() + _MEMORY_S
        while not envs or (
            len(envs) < _MAX_INSTANCES and time.process_time() < cpu_end and time.perf_counter() < end
        ):
            env = subject.build()
            env.reset(seed=2_000_001 + len(envs))
            envs.append(env)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    subject.figures.bytes_per_instance = max(0, after - before) // len(envs)
    for env in [warm, *envs]:
        env.close()
