"""Writes ``environments.json`` of the catalogue's families from their packages: names, tags, and costs measured here.

Needs the packages: ``make catalogue-data ARGS="reasoning_gym"`` runs it in an environment that has them. Run it after a change
of a package's version, and look at the difference. What was measured of the same version stays, unless ``--measure`` is given.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from verl_agent_env.envs import catalogue
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.catalogue.family import Family, Listing
from verl_agent_env.envs.spec import Costs, EnvSpec
from verl_agent_env.messages import content_text

FOLDER = Path(catalogue.__file__).parent
_FORM = b'{\n  "version": %s,\n  "sample_episode": %s,\n  "environments": {\n%s\n  },\n  "left_out": {\n%s\n  }\n}\n'
_SAMPLE_STEPS = 3
_MAX_CALLS = 16
_BUDGET_S = 0.7
"""Of resets, and of steps, after which no more are measured."""


def main() -> None:
    """Write the data of the families that the command line names; of all without any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FAMILY")
    parser.add_argument("--measure", action="store_true", help="measure all costs anew")
    given = parser.parse_args()
    for family in FAMILIES:
        if not given.names or family.name in given.names:
            write(family, anew=given.measure)


def write(family: Family, *, anew: bool) -> None:
    """Write the data of one family; measure all costs ``anew``, or only those that are not known."""
    listing = importlib.import_module(f"{catalogue.__name__}.{family.name}.listing")
    found: Listing = listing.read()
    version = importlib.metadata.version(family.distribution)
    module = importlib.import_module(f"{catalogue.__name__}.{family.name}.env")
    rows = {}
    for number, (short, row) in enumerate(sorted(found.environments.items()), start=1):
        description, tags = row
        spec = _unmeasured(family, found, short)
        known = None if anew or family.version != version else family.specs.get(short)
        costs = None if known is None else known.costs
        if costs is None:
            costs = measure(module.make_class(short, spec))
        rows[short] = {
            "description": description,
            "tags": tags,
            "costs": {
                "load_ms": _rounded(costs.load_ms),
                "reset_ms": _rounded(costs.reset_ms),
                "step_ms": _rounded(costs.step_ms),
            },
        }
        print(  # noqa: T201
            f"{number}/{len(found.environments)} {spec.name} {rows[short]['costs']}", flush=True
        )
    data = {
        "version": version,
        "environments": rows,
        "left_out": found.left_out,
        "sample_episode": sample_episode(
            module.make_class(family.sample, _unmeasured(family, found, family.sample))
        ),
    }
    text = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    (FOLDER / family.name / "environments.json").write_bytes(_one_row_a_line(text))


def _unmeasured(family: Family, found: Listing, short: str) -> EnvSpec:
    description, tags = found.environments[short]
    return EnvSpec(f"{family.name}/{short}", "", description=description, tags=tuple(tags), family=family)


def sample_episode(env_class: type[ChatEnv]) -> str:
    """The first steps of the episode of seed 1: what is shown, and the actions behind ``>``."""
    env = env_class()
    observation, _ = env.reset(seed=1)
    lines = [content_text(message["content"]) for message in observation]
    dice = random.Random(1)
    for action in (env.solution() or [env.sample_action(dice) for _ in range(_SAMPLE_STEPS)])[:_SAMPLE_STEPS]:
        parsed = env.read_action(action)
        calls = [f"{call.name}({', '.join(map(str, call.arguments.values()))})" for call in parsed.calls]
        observation, reward, terminated, truncated, _ = env.step(action)
        lines.append(f"> {' '.join(calls) or parsed.text}")
        lines += [content_text(message["content"]) for message in observation]
        lines.append(f"(reward {reward:g}{', terminated' * terminated}{', truncated' * truncated})")
        if env.ended:
            break
    env.close()
    return "\n".join(lines)


def measure(env_class: type[ChatEnv]) -> Costs:
    """Measure the calls of an environment with its default arguments, in time of this process."""
    env = env_class()
    first_ms = _cpu_ms(lambda: env.reset(seed=0))
    resets = _dearest(lambda number: env.reset(seed=number))
    dice = random.Random(0)

    def step(number: int) -> None:
        if env.ended:
            env.reset(seed=number)
        # Where an episode is one answer, the right one may take longest to score.
        actions = env.solution() if env.arguments.max_steps == 1 and number % 2 else None
        steps.append(_cpu_ms(lambda: env.step(actions[0] if actions else env.sample_action(dice))))

    steps: list[float] = []
    _dearest(step)
    env.close()
    return Costs(reset_ms=resets, step_ms=max(steps), load_ms=max(0.0, first_ms - resets))


def _dearest(call: Callable[[int], Any]) -> float:
    dearest, end = 0.0, time.process_time() + _BUDGET_S
    for number in range(1, _MAX_CALLS + 1):
        dearest = max(dearest, _cpu_ms(lambda number=number: call(number)))  # type: ignore[misc]
        if time.process_time() > end:
            break
    return dearest


def _cpu_ms(call: Callable[[], Any]) -> float:
    before = time.process_time()
    call()
    return 1e3 * (time.process_time() - before)


def _rounded(ms: float) -> float:
    return float(f"{ms:.2g}")


def _one_row_a_line(text: bytes) -> bytes:
    """The JSON with each environment on a line of its own, so that differences can be read."""
    data = orjson.loads(text)
    lines = [
        b"    %s: %s" % (orjson.dumps(short), orjson.dumps(row))
        for short, row in data["environments"].items()
    ]
    left_out = [
        b"    %s: %s" % (orjson.dumps(name), orjson.dumps(cause)) for name, cause in data["left_out"].items()
    ]
    return _FORM % (
        orjson.dumps(data["version"]),
        orjson.dumps(data["sample_episode"]),
        b",\n".join(lines),
        b",\n".join(left_out),
    )


if __name__ == "__main__":
    main()
