"""Many environments of a cluster are measured, and what is lost or answered wrongly is told."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from loadtests.bench_many import MOST_ROUNDS, Loss, Outcome, bench_many
from loadtests.bench_recovery import RETURN_S


async def test_environments_are_measured_and_all_answer_after_the_loss_of_a_worker(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await bench_many(400, batch_size=100, rounds=2)
    shown = capsys.readouterr().out

    def cells(row: str) -> list[str]:
        (line,) = (line for line in shown.splitlines() if re.match(rf"│ {row} +│", line))
        return [cell.strip() for cell in line.split("│")[2:-1]]

    for kind in ("4 × workers", "1 × Redis", r"\d+ × nginx", "2 × supervisors of the nodes"):
        assert len(cells(kind)) == 6
    # Two rounds, and the one after the loss; on a busy machine a call may be sent again.
    assert int(cells("initialize")[0]) >= 4
    assert int(cells("step")[0]) >= 12
    assert 0 < int(cells("environments of the worker")[0]) < 400
    assert float(cells("all environments answered, s")[0]) < float("inf")
    assert cells("steps that failed for good")[0] == "0"
    assert cells("environments with another answer than a single process")[0] == "0"
    assert cells("environments closed in the end") == ["400", "400"]


def answered(after_s: float = 1.0, count: int = 3) -> Loss:
    """A loss after which so many environments answered."""
    return Loss(1, answered_s=[after_s] * count)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(3, closed=3, loss=answered()), ""),
        (Outcome(3, closed=3, loss=answered(), gone=Counter(environment_lost=2)), "environment_lost"),
        (Outcome(3, closed=3, loss=answered(), differing=1), "otherwise"),
        (Outcome(3, closed=2, loss=answered()), "2 of 3"),
        (Outcome(3, closed=3, loss=answered(count=2)), "1 environments did not answer"),
        (Outcome(3, closed=3, loss=answered(RETURN_S + 1)), f"not {RETURN_S:g} s"),
    ],
)
def test_what_was_promised_and_not_kept_is_told(outcome: Outcome, told: str) -> None:
    assert len(outcome.broken) == bool(told)
    assert told in "".join(outcome.broken)


@pytest.mark.parametrize("rounds", [0, MOST_ROUNDS + 1])
async def test_rounds_in_which_an_episode_could_end_are_refused(rounds: int) -> None:
    with pytest.raises(ValueError, match="rounds"):
        await bench_many(10, batch_size=10, rounds=rounds)
