"""Running sums of kept episodes are those that counting anew gives, whatever came and went."""

from __future__ import annotations

import dataclasses
import random

import pytest

from tests.contract.test_episodes import kept_episode
from verl_agent_env.types import tag_of_holder, tagged_env_id
from verl_agent_env.wire.episode_rows import EpisodeRows, RunSummary
from verl_agent_env.wire.episodes import Ending, EpisodeRow

ENDINGS: tuple[Ending, ...] = ("success", "failure", "ended")
TAG = tag_of_holder("alice")


def row_of(number: int, dice: random.Random) -> EpisodeRow:
    """A row of one of a few runs and environments; every third one is Alice's."""
    ending = dice.choice(ENDINGS)
    env_id = tagged_env_id(1, TAG, number) if number % 3 == 0 else f"e{number}"
    return kept_episode(number).row._replace(
        id=f"{env_id}.0",
        env_id=env_id,
        env_name=dice.choice(("lake", "box")),
        run_id=dice.choice(("one", "two", None)),
        ending=ending,
        success={"success": True, "failure": False, "ended": None}[ending],
        # Sums of these are exact, in whatever order they are added.
        reward=dice.randrange(8) / 4,
        num_steps=dice.randrange(1, 9),
        num_invalid=dice.randrange(2),
        began_at=100.0,
        ended_at=100.0 + dice.randrange(60),
    )


def counted(rows: EpisodeRows, tag: str | None) -> list[RunSummary]:
    """Sums, but for the times of the first and the last episode, which outlive these."""
    runs = [dataclasses.replace(run, began_at=0.0, ended_at=0.0) for run in rows.runs(tag)]
    return sorted(runs, key=lambda run: (run.run_id or "", run.episodes))


@pytest.mark.parametrize("tag", [None, TAG, ""])
def test_sums_after_additions_replacements_and_removals_are_those_of_what_is_left(tag: str | None) -> None:
    dice = random.Random(5)
    rows = EpisodeRows()
    for number in range(200):
        rows.add(row_of(number, dice))
        if number % 10 == 9:
            rows.add(row_of(number - 5, dice))
    rows.remove_first(60)
    rows.remove("nobody")
    assert len(rows.rows()) == 140
    assert rows.ids() == [row.id for row in rows.rows()]
    assert sum(run.episodes for run in rows.runs(TAG)) + sum(run.episodes for run in rows.runs("")) == 140
    while rows.rows():
        anew = EpisodeRows()
        for row in rows.rows():
            anew.add(row)
        assert counted(rows, tag) == counted(anew, tag)
        rows.remove_first(1)
    assert rows.runs(None) == []


def test_nothing_is_left_after_a_clearance() -> None:
    rows = EpisodeRows()
    rows.add(kept_episode(1).row)
    rows.clear()
    assert rows.runs(None) == []
    assert rows.rows() == []
