"""Notes that a message may carry of how it was made: token counts, and the training step.

A message holds them as OpenAI's API does: ``usage`` with ``prompt_tokens`` and ``completion_tokens`` (or the names of other
APIs), ``metadata`` with ``training_step``. No environment reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from verl_agent_env.types import Action

_MAX_LAYERS = 4
_READ = ("prompt_tokens", "input_tokens", "promptTokenCount")
_WRITTEN = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_MAX_COUNT = 2**53


class ModelNotes(NamedTuple):
    """Token counts of an action, and its training step, as far as they are known."""

    prompt_tokens: int | None = None
    """Tokens that the model read."""
    completion_tokens: int | None = None
    """Tokens that it wrote."""
    training_step: int | None = None
    """Training step whose weights wrote the action."""


NO_NOTES = ModelNotes()


def notes_of(action: Any) -> ModelNotes:
    """Read the notes of an action, in any form that a step takes; of several messages the last that has some counts."""
    return _notes_in(action, _MAX_LAYERS) or NO_NOTES


def notes_of_json(action: bytes) -> ModelNotes:
    """Read the notes of an action that is JSON; one without notes is not parsed."""
    if not _may_have_notes(action):
        return NO_NOTES
    try:
        return notes_of(orjson.loads(action))
    except ValueError:
        # A long action of which only the calls are recorded.
        return NO_NOTES


def notes_of_each(actions: Sequence[bytes]) -> list[ModelNotes]:
    """Read the notes of each action that is JSON; an empty list if none has any, which takes one look at all of them."""
    if not _may_have_notes(b"".join(actions)):
        return []
    return list(map(notes_of_json, actions))


def sum_known(counts: Sequence[int | None]) -> int | None:
    """Sum up counts as far as they are known; None if none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def with_notes(action: Action, notes: ModelNotes) -> Action:
    """Return an action as a message with notes; a text becomes a message of this text, which is read alike."""
    message = {"role": "assistant", "content": action} if isinstance(action, str) else action
    if not isinstance(message, Mapping):
        return action
    counts = {"prompt_tokens": notes.prompt_tokens, "completion_tokens": notes.completion_tokens}
    usage = {name: count for name, count in counts.items() if count is not None}
    noted = dict(message)
    if usage:
        noted["usage"] = usage
    if notes.training_step is not None:
        noted["metadata"] = {"training_step": notes.training_step}
    return noted


def _may_have_notes(action: bytes) -> bool:
    return b'"usage"' in action or b'"usageMetadata"' in action or b'"training_step"' in action


def _notes_in(value: Any, layers: int) -> ModelNotes | None:
    if layers and isinstance(value, list):
        found = (_notes_in(each, layers - 1) for each in reversed(value))
        return next((notes for notes in found if notes is not None), None)
    if not isinstance(value, dict):
        return None
    if layers and "seat" in value and "action" in value:
        return _notes_in(value["action"], layers - 1)
    usage = value.get("usage", value.get("usageMetadata"))
    metadata = value.get("metadata")
    notes = ModelNotes(
        _count_in(usage, _READ), _count_in(usage, _WRITTEN), _count_in(metadata, ("training_step",))
    )
    return None if notes == NO_NOTES else notes


def _count_in(value: Any, names: tuple[str, ...]) -> int | None:
    """Return the first of these fields that is a count; anybody may have written them."""
    if not isinstance(value, dict):
        return None
    found = (value.get(name) for name in names)
    return next((each for each in found if type(each) is int and 0 <= each < _MAX_COUNT), None)
