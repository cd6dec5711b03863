"""All scorers together: how they are described, and what they never tell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from verl_agent_env.envs.scorers import AnyScorer, parse_scorer

SECRET = "xylophone-4711"


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "exact_match", "answer": SECRET, "strip": SECRET},
        {"type": "exact_match", "answer": SECRET, "other": 1},
        {"type": "exact_match", "answer": {"x": SECRET}},
        {"type": "regex", "pattern": f"({SECRET}"},
        {"type": "regex", "pattern": SECRET + "a{1000}"},
        {"type": "numeric", "answer": SECRET},
        {"type": "callable", "name": "nobody", "arguments": {"answer": SECRET}},
        {"type": "nothing", "answer": SECRET},
        [SECRET],
    ],
)
def test_error_never_holds_the_reference(spec: object) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_scorer(spec)
    assert SECRET not in str(caught.value)
    for fault in caught.value.errors(include_input=False, include_context=False, include_url=False):
        assert SECRET not in json.dumps(fault)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "exact_match", "answer": SECRET},
        {"type": "regex", "pattern": SECRET},
        {"type": "numeric", "answer": "4711"},
    ],
)
def test_repr_never_holds_the_reference(spec: dict[str, Any]) -> None:
    assert "4711" not in repr(parse_scorer(spec))


def test_schema_is_valid_and_takes_what_the_models_take() -> None:
    schema = TypeAdapter(AnyScorer).json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"type": "numeric", "answer": 3})
    assert not validator.is_valid({"type": "numeric"})
    assert not validator.is_valid({"type": "none", "other": 1})


def test_scorer_survives_a_round_trip_through_json() -> None:
    for spec in (
        {"type": "none"},
        {"type": "exact_match", "answer": ["a", "b"]},
        {"type": "regex", "pattern": "a+"},
        {"type": "numeric", "answer": "3/4"},
    ):
        scorer = parse_scorer(spec)
        assert parse_scorer(json.loads(scorer.model_dump_json())) == scorer


def test_scorer_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "regex", "pattern": "a"}).pattern = "b"  # type: ignore[union-attr]


@given(st.text(max_size=300))
def test_any_text_is_scored(text: str) -> None:
    for spec in (
        {"type": "exact_match", "answer": "a"},
        {"type": "regex", "pattern": r"^\w+$"},
        {"type": "numeric", "answer": 1, "abs_tolerance": 2},
    ):
        assert parse_scorer(spec).score(text) in (0.0, 1.0)
