"""Environment ids and the slots that they live in."""

from __future__ import annotations

import zlib

import pytest

from verl_agent_env.types import (
    MANY_SLOTS,
    NUM_SLOTS,
    StepResult,
    new_env_id,
    numbered_env_id,
    slot_of,
    slot_text,
    tag_of,
    tag_of_holder,
)


@pytest.mark.parametrize("slot", [0, 1, 255, NUM_SLOTS - 1])
def test_new_id_lives_in_its_slot(slot: int) -> None:
    env_id = new_env_id(slot)
    assert slot_of(env_id) == slot
    assert env_id != new_env_id(slot)


@pytest.mark.parametrize("slot", [0, 1, 255, NUM_SLOTS, MANY_SLOTS - 1])
def test_id_tells_by_its_length_how_many_slots_its_cluster_has(slot: int) -> None:
    tag = tag_of_holder("alice")
    for env_id in (new_env_id(slot, "", MANY_SLOTS), new_env_id(slot, tag, MANY_SLOTS)):
        assert len(env_id) == len(new_env_id(0)) + 1
        assert env_id.startswith(f"{slot_text(slot, MANY_SLOTS)}-")
        assert slot_of(env_id) == slot
    assert tag_of(new_env_id(slot, tag, MANY_SLOTS)) == tag
    assert tag_of(new_env_id(slot, "", MANY_SLOTS)) == ""


@pytest.mark.parametrize("number", [0, 2**128 - 1, 0x8 << 76, *range(0, 16 << 76, 1 << 76)])
def test_id_without_a_holder_is_never_taken_for_a_holders(number: int) -> None:
    """Whatever its random bits are."""
    env_id = numbered_env_id(7, "", number)
    assert (slot_of(env_id), tag_of(env_id)) == (7, "")
    assert numbered_env_id(7, "", number) == env_id


@pytest.mark.parametrize(
    "env_id",
    [
        "mine",
        "",
        "0ff-short",
        "FFF-" + "0" * 32,
        "0g0-" + "0" * 32,
        "fff_" + "0" * 32,
        "fff-" + "0" * 33,
        "FFFF-" + "0" * 32,
        "+fff-" + "0" * 32,
        "0x1f-" + "0" * 32,
        "ffff_" + "0" * 32,
        "fffff-" + "0" * 32,
        "naïve",
    ],
)
def test_id_chosen_elsewhere_is_hashed(env_id: str) -> None:
    assert slot_of(env_id) == zlib.crc32(env_id.encode()) % NUM_SLOTS


@pytest.mark.parametrize("terminated", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
def test_a_step_is_over_when_its_episode_cannot_go_on(terminated: bool, truncated: bool) -> None:
    assert StepResult([], 0.0, terminated, truncated, {}).is_over is (terminated or truncated)
