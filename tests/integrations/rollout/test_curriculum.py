"""Tasks of middle pass rates are preferred, the same ones for the same results, and none is forgotten."""

from __future__ import annotations

from collections import Counter

from tests.conftest import ServerProcess
from verl_agent_env.client import EnvClient
from verl_agent_env.integrations.rollout.curriculum import (
    FLOOR,
    PassRateCurriculum,
    ServedCurriculum,
    task_of,
    weight_of,
)
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.wire.task_results import TaskStatistics

TASKS = ["easy", "middle", "hard", "new"]
RESULTS = {
    "easy": TaskStatistics("easy", 98, 98, 98.0),
    "middle": TaskStatistics("middle", 98, 49, 49.0),
    "hard": TaskStatistics("hard", 98, 0, 0.0),
}


def test_weights_are_highest_at_one_half_and_never_zero() -> None:
    assert [weight_of(98, 98), weight_of(98, 49), weight_of(98, 0), weight_of(0, 0)] == [FLOOR, 1, FLOOR, 1]
    assert FLOOR < weight_of(2, 2) < 1


def test_draws_follow_the_weights() -> None:
    curriculum = PassRateCurriculum(TASKS, seed=1)
    curriculum.note(RESULTS)
    drawn = Counter(TASKS[curriculum.row(number)] for number in range(2_000))
    assert drawn["middle"] > 4 * drawn["easy"] > 0
    assert drawn["new"] > 4 * drawn["hard"] > 0


def test_what_was_solved_of_late_counts_more() -> None:
    """A task that was too hard for long and is solved half the time by now is worth as much as one that always was."""
    curriculum = PassRateCurriculum(["learnt", "half"], seed=1)
    for tries, successes in ((80, 0), (88, 4), (96, 8), (104, 12), (112, 16), (120, 20)):
        half = TaskStatistics("half", tries, tries // 2, 0.0)
        curriculum.note({"learnt": TaskStatistics("learnt", tries, successes, 0.0), "half": half})
    drawn = Counter(curriculum.row(number) for number in range(1_000))
    # By all that was ever tried it would be a little more than half as likely.
    assert 0.8 < drawn[0] / drawn[1] < 1.25


def test_results_that_are_read_again_count_once() -> None:
    # Of few tries, where each one more changes the weight.
    results = {"easy": TaskStatistics("easy", 2, 2, 2.0), "hard": TaskStatistics("hard", 4, 0, 0.0)}
    once, often = (PassRateCurriculum(TASKS, seed=1) for _ in range(2))
    once.note(results)
    for _ in range(5):
        often.note(results)
    assert [once.row(number) for number in range(500)] == [often.row(number) for number in range(500)]


def test_same_results_seed_and_numbers_give_the_same_rows() -> None:
    def rows(seed: int, results: dict[str, TaskStatistics]) -> list[int]:
        curriculum = PassRateCurriculum(TASKS, seed)
        curriculum.note({})
        curriculum.note(results)
        return [curriculum.row(number) for number in range(50)]

    assert rows(1, RESULTS) == rows(1, RESULTS)
    assert rows(1, RESULTS) != rows(2, RESULTS)
    assert rows(1, RESULTS) != rows(1, {})


def test_results_are_read_from_the_server_again_and_again(server: ServerProcess) -> None:
    """What is played in the run decides what is drawn next."""
    kwargs = {"desc": ["SG"], "is_slippery": False}
    specs = [
        EpisodeSpec("verl_env/frozen_lake-v1", seed, kwargs, None, None, False, False) for seed in range(2)
    ]
    options = RolloutOptions(url=server.url, run_id="curriculum", curriculum="pass_rate")
    served = ServedCurriculum(options, specs, seed=5, rows_per_reading=200)
    before = Counter(served.next_row() for _ in range(200))
    assert min(before.values()) > 60
    with EnvClient(server.url) as client:
        for _ in range(40):
            with client.make(specs[0].env_name, seed=0, env_kwargs=kwargs, run_id="curriculum") as env:
                env.reset()
                env.step("right")
        (found,) = client.task_results("curriculum")
        assert (found.task, found.tries) == (task_of(specs[0]), 40)
    after = Counter(served.next_row() for _ in range(200))
    assert after[1] > 4 * after[0] > 0
