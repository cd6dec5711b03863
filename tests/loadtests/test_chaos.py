"""The chaos command: it strikes real processes, and what it prints can be bad news."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtests.chaos.code_faults import Releases
from loadtests.chaos.env_faults import LARGE
from loadtests.chaos.episode import (
    ENV_NAME,
    KWARGS,
    Episode,
    Say,
    differs_from_reference,
    digest_of,
    release_of,
)
from loadtests.chaos.faults import ANYWHERE
from loadtests.chaos.ledger import Ledger
from loadtests.chaos.table import Finding
from tests.children import forked_python, python
from verl_agent_env import interface


def test_killed_worker_costs_nobody_an_episode() -> None:
    done = forked_python(
        *("-m", "loadtests.chaos", "--episodes", "60", "--sample", "60", "--only", "kill -9 of a"),
        # The machine may be busy with other tests.
        *("--slower", "30"),
        timeout_s=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept") == 2
    assert "60 closed in the end" in done.stdout.replace("\n", " ")
    assert " 0 differ from the reference" in done.stdout.replace("\n", " ")


def played() -> Episode:
    """An episode of a few steps, as it was answered."""
    episode = Episode("", 5)
    env_id = interface.initialize_environment("frozen_lake", seed=5, env_kwargs=KWARGS)
    interface.reset(env_id, seed=5)
    for _ in range(4):
        answer = list(interface.step(env_id, episode.next_action()))
        episode.acknowledge(answer)
    interface.close_environment(env_id)
    return episode


def test_true_answers_do_not_differ_from_the_reference_and_false_ones_do() -> None:
    episode = played()
    assert not differs_from_reference(episode)
    episode.digests[2] = digest_of(["something else"])
    assert differs_from_reference(episode)


def test_what_others_saw_counts_but_for_their_waits() -> None:
    ledger = Ledger(steps=1, latencies_s=[0.1], longest_s=0.1)
    other = Ledger(2, 3, Counter(moved=1), Counter(gone=1), 4, ["late"], 9.0, [9.0])
    ledger.add(other)
    assert ledger == Ledger(2, 4, Counter(moved=1), Counter(gone=1), 4, ["late"], 0.1, [0.1])


def test_release_shows_lakes_in_words_of_its_own_that_do_not_count(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    code = (
        "from loadtests.chaos.episode import ENV_NAME, KWARGS;"
        "from verl_agent_env import interface;"
        "env_id = interface.initialize_environment(ENV_NAME, seed=5, env_kwargs=KWARGS);"
        "interface.reset(env_id, seed=5);"
        "import orjson; print(orjson.dumps(list(interface.step(env_id, 'left'))).decode())"
    )

    def answer() -> list[Any]:
        done = python("-c", code, variables={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"})
        assert done.returncode == 0, done.stderr
        answer: list[Any] = orjson.loads(done.stdout)
        return answer

    env_id = interface.initialize_environment(ENV_NAME, seed=5, env_kwargs=KWARGS)
    interface.reset(env_id, seed=5)
    first = orjson.loads(orjson.dumps(list(interface.step(env_id, "left"))))
    interface.close_environment(env_id)
    assert release_of(first) == 0
    for number in (1, 2):
        assert releases.release() == number
        other = answer()
        assert release_of(other) == number
        assert other != first
        assert digest_of(other) == digest_of(first)


@pytest.mark.parametrize("say", LARGE)
def test_large_actions_are_as_large_as_they_should_be_and_the_environment_reads_them(say: Say) -> None:
    assert 60_000 < len(orjson.dumps(say("left"))) < 61_000
    episode = Episode("", 5, say=say)
    env_id = interface.initialize_environment("frozen_lake", seed=5, env_kwargs=KWARGS)
    interface.reset(env_id, seed=5)
    episode.acknowledge(list(interface.step(env_id, episode.next_action())))
    interface.close_environment(env_id)
    assert not differs_from_reference(episode)


@pytest.mark.parametrize(
    ("ledger", "told"),
    [
        (Ledger(steps=1, latencies_s=[0.1]), ""),
        (
            Ledger(steps=1, latencies_s=[0.1], unretryable=Counter(environment_lost=1)),
            "lost: 1 environment_lost",
        ),
        (Ledger(steps=1, latencies_s=[0.1], differing=3), "differ: 3"),
        (Ledger(steps=1, latencies_s=[0.1], broken=["healed after 11.0 s"]), "healed after 11.0 s"),
        (Ledger(steps=1, latencies_s=[0.1], longest_s=2.5), "stalled 2.5 s"),
        (Ledger(steps=1, latencies_s=[0.1], refused=Counter(moved=3)), "refused: 3 moved"),
    ],
)
def test_broken_promises_are_told(ledger: Ledger, told: str) -> None:
    assert "; ".join(Finding(ANYWHERE[0], ledger, 0.1).faults) == told
