"""The chaos command: it strikes real processes, and what it prints can be bad news."""

from __future__ import annotations

from collections import Counter

import pytest

from loadtests.chaos.episode import KWARGS, Episode, differs_from_reference, digest_of
from loadtests.chaos.faults import faults_of
from loadtests.chaos.ledger import Ledger
from loadtests.chaos.table import Finding
from tests.children import python
from verl_agent_env import interface


def test_killed_worker_costs_nobody_an_episode() -> None:
    done = python(
        *("-m", "loadtests.chaos", "--episodes", "300", "--sample", "100", "--only", "kill -9 of a"),
        timeout_s=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept") == 2
    assert "300 closed in the end" in done.stdout.replace("\n", " ")
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


@pytest.mark.parametrize(
    ("ledger", "told"),
    [
        (Ledger(steps=1, latencies_s=[0.1]), ""),
        (
            Ledger(steps=1, latencies_s=[0.1], unretryable=Counter(environment_lost=1)),
            "lost: 1 environment_lost",
        ),
        (Ledger(steps=1, latencies_s=[0.1], longest_s=2.5), "stalled 2.5 s"),
        (Ledger(steps=1, latencies_s=[0.1], refused=Counter(moved=3)), "refused: 3 moved"),
    ],
)
def test_broken_promises_are_told(ledger: Ledger, told: str) -> None:
    assert "; ".join(Finding(faults_of(None)[0], ledger, 0.1).faults) == told
