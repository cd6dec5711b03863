"""Registered functions score what they are given, and fail without telling the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from verl_agent_env.envs.scorer_registry import (
    ScoreContext,
    find_scorer,
    register_scorer,
    registered_scorers,
    unregister_scorer,
)
from verl_agent_env.envs.scorers import CallableScorer, ScorerError, parse_scorer

SECRET = "xylophone-4711"


def score(text: str, /, **spec: Any) -> float:
    return parse_scorer(spec).score(text)


@pytest.fixture
def length_scorer() -> Iterator[str]:
    @register_scorer("tests.length")
    def length(answer: str, context: ScoreContext, arguments: Mapping[str, Any]) -> float:
        return len(answer) * float(arguments.get("factor", 1)) + len(context.chat_history)

    yield "tests.length"
    unregister_scorer("tests.length")


def test_callable_gets_answer_context_and_arguments(length_scorer: str) -> None:
    scorer = parse_scorer({"type": "callable", "name": length_scorer, "arguments": {"factor": 2}})
    context = ScoreContext(chat_history=[{"role": "user", "content": "hello"}])
    assert scorer.score(" four ", context) == 9


def test_callable_sees_only_the_part_that_is_extracted(length_scorer: str) -> None:
    scorer = CallableScorer(name=length_scorer, extract="boxed", missing_reward=-1)
    assert scorer.score(r"xx \boxed{ab}") == 2
    assert scorer.score("xx") == -1


def test_unknown_callable_is_refused_with_a_hint(length_scorer: str) -> None:
    with pytest.raises(ValidationError, match=r"did you mean 'tests\.length'"):
        parse_scorer({"type": "callable", "name": "tests.lenght"})


@pytest.mark.parametrize("name", ["os.system:x", "", "A", "a" * 65, "../x y"])
def test_improper_names_cannot_be_registered(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        register_scorer(name)


def test_name_cannot_be_taken_twice(length_scorer: str) -> None:
    def other(answer: str, context: ScoreContext, arguments: Mapping[str, Any]) -> float:
        return 0.0

    with pytest.raises(ValueError, match="another scorer"):
        register_scorer(length_scorer)(other)
    # The same function again is fine: modules get imported twice.
    register_scorer(length_scorer)(find_scorer(length_scorer))


@pytest.mark.parametrize("outcome", [math.nan, math.inf, "text", None, ValueError(SECRET)])
def test_failing_callable_raises_a_typed_error_without_its_message(outcome: Any) -> None:
    def fails(answer: str, context: ScoreContext, arguments: Mapping[str, Any]) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    register_scorer("tests.fails")(fails)
    try:
        scorer = CallableScorer(name="tests.fails", arguments={"answer": SECRET})
        with pytest.raises(ScorerError) as caught:
            scorer.score("x")
    finally:
        unregister_scorer("tests.fails")
    assert SECRET not in str(caught.value)


def test_entry_point_of_an_installed_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "scorer_sample-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scorer-sample\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[verl_agent_env.scorers]\ntests.sample = scorer_sample:half\n"
    )
    (tmp_path / "scorer_sample.py").write_text("def half(answer, context, arguments):\n    return 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert "tests.sample" in registered_scorers()
        assert score("x", type="callable", name="tests.sample") == 0.5
    finally:
        unregister_scorer("tests.sample")
