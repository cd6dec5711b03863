"""Whole episodes of all kinds against a real server, small; ``python -m loadtests.play_batch`` plays ten thousand."""

from __future__ import annotations

from collections import Counter

import httpx
from rich.progress import Progress

from loadtests.play_batch import Player, Tally, find_disagreements, plan_episodes, read_metrics
from loadtests.processes import serving
from tests.waiting import HANG_S


def test_mixed_episodes_play_to_their_end_and_the_metrics_agree() -> None:
    with (
        serving() as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=HANG_S) as client,
    ):
        player = Player(client, batch_size=50)
        before = read_metrics(client)
        with Progress(disable=True) as progress:
            player.play(plan_episodes(120), progress)
        after = read_metrics(client)
    assert find_disagreements(player.tally, before, after) == []
    assert player.tally.created.total() == player.tally.closed.total() == 120
    assert player.tally.solved.total() == 60


def test_a_lost_environment_is_a_disagreement() -> None:
    tally = Tally(created=Counter({"verl_env/sokoban-v0": 2}), closed=Counter({"verl_env/sokoban-v0": 1}))
    after = Counter({("created", "verl_env/sokoban-v0"): 2, ("closed", "verl_env/sokoban-v0"): 2})
    assert find_disagreements(tally, Counter(), after) == [
        "verl_env/sokoban-v0: 1 closed, the server counts 2"
    ]
