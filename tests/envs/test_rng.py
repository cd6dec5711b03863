"""The small random generator against NumPy's."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from verl_agent_env.envs.rng import (
    EpisodeRandom,
    generator_from_state,
    parse_integers,
    stringify_integers,
)

SEEDS = [0, 1, 42, 2**32, 2**63 - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_floats_equal_numpys(seed: int) -> None:
    ours, numpys = EpisodeRandom.from_seed(seed), np.random.default_rng(seed)
    assert [ours.random() for _ in range(1000)] == numpys.random(1000).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_equal_numpys(seed: int) -> None:
    ours, numpys = EpisodeRandom.from_seed(seed), np.random.PCG64(seed)
    assert [ours.next_uint64() for _ in range(1000)] == numpys.random_raw(1000).tolist()


def test_state_survives_json() -> None:
    ours = EpisodeRandom.from_seed(3)
    ours.random()
    again = EpisodeRandom.from_state(json.loads(json.dumps(ours.state())))
    assert [again.random() for _ in range(10)] == [ours.random() for _ in range(10)]


def test_randrange_is_even() -> None:
    ours = EpisodeRandom.from_seed(5)
    counts = Counter(ours.randrange(7) for _ in range(7000))
    assert set(counts) == set(range(7))
    assert all(850 < count < 1150 for count in counts.values())


@pytest.mark.parametrize("stop", [0, -1])
def test_randrange_of_nothing_raises(stop: int) -> None:
    with pytest.raises(ValueError, match="no number"):
        EpisodeRandom.from_seed(0).randrange(stop)


def test_shuffle_gives_each_order() -> None:
    ours = EpisodeRandom.from_seed(1)
    orders = set()
    for _ in range(200):
        items = [1, 2, 3]
        ours.shuffle(items)
        orders.add(tuple(items))
    assert len(orders) == 6


def test_choice_is_one_of_the_options() -> None:
    ours = EpisodeRandom.from_seed(1)
    assert {ours.choice("abc") for _ in range(60)} == set("abc")


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_state_of_any_numpy_generator_survives_json(kind: type[np.random.BitGenerator]) -> None:
    numpys = np.random.Generator(kind(9))
    numpys.integers(5, dtype=np.uint32)
    state = json.loads(json.dumps(stringify_integers(numpys.bit_generator.state)))
    again = generator_from_state(parse_integers(state))
    assert again.random(20).tolist() == numpys.random(20).tolist()


def test_unknown_generator_raises() -> None:
    with pytest.raises(ValueError, match="Dice"):
        generator_from_state({"bit_generator": "Dice"})
