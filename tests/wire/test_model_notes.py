"""Notes of an action: read from whatever form it has, and added without changing how it is read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.wire.model_notes import NO_NOTES, ModelNotes, notes_of, notes_of_json, with_notes

CALL = {"id": "c1", "type": "function", "function": {"name": "move_right", "arguments": "{}"}}
SAID: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}
NOTES = ModelNotes(30, 12, 7)


@pytest.mark.parametrize(
    ("action", "notes"),
    [
        ({**SAID, "usage": {"prompt_tokens": 30, "completion_tokens": 12}}, ModelNotes(30, 12)),
        ({**SAID, "usage": {"input_tokens": 30, "output_tokens": 12}}, ModelNotes(30, 12)),
        ({"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}}, ModelNotes(3, 4)),
        ({"choices": [{"message": SAID}], "usage": {"completion_tokens": 12}}, ModelNotes(None, 12)),
        ({"metadata": {"training_step": 0}}, ModelNotes(None, None, 0)),
        ([{**SAID, "usage": {"completion_tokens": 1}}, SAID], ModelNotes(None, 1)),
        ([{"usage": {"completion_tokens": 1}}, {"usage": {"completion_tokens": 2}}], ModelNotes(None, 2)),
        ({"seat": 1, "action": {**SAID, "metadata": {"training_step": 7}}}, ModelNotes(None, None, 7)),
        ("usage", NO_NOTES),
        (None, NO_NOTES),
        (SAID, NO_NOTES),
        ({"usage": "many", "metadata": [3]}, NO_NOTES),
        ({"usage": {"completion_tokens": -1, "prompt_tokens": True}}, NO_NOTES),
        ({"usage": {"completion_tokens": 2**60, "prompt_tokens": 1.5}}, NO_NOTES),
        ([[[[[[{"usage": {"completion_tokens": 1}}]]]]]], NO_NOTES),
    ],
)
def test_notes_are_read_from_any_form_and_nonsense_is_none(action: Any, notes: ModelNotes) -> None:
    assert notes_of(action) == notes
    assert notes_of_json(orjson.dumps(action)) == notes


def test_what_is_no_json_has_no_notes() -> None:
    assert notes_of_json(b'~"#3f"[["usage"') == NO_NOTES


@pytest.mark.parametrize("action", ["<think>Hm.</think><answer>right</answer>", SAID, "I jump", ""])
def test_an_action_with_notes_is_read_as_without(action: Any) -> None:
    kind = default_registry().kind("frozen_lake")
    env: Any = kind.build(kind.validate({"desc": ["SFG"]}))
    env.reset(seed=1)
    noted = with_notes(action, NOTES)
    assert notes_of(noted) == NOTES
    assert env.reading_of(noted) == env.reading_of(action)


def test_what_is_no_message_is_left_as_it_is_and_nothing_known_adds_nothing() -> None:
    assert with_notes([SAID], NOTES) == [SAID]
    assert with_notes(SAID, NO_NOTES) == SAID
    assert notes_of(with_notes("right", ModelNotes(None, 3))) == ModelNotes(None, 3)
