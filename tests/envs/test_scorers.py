"""Scorers reward what they should, never hang, and never tell the reference."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from verl_agent_env.envs.scorer_registry import (
    ScoreContext,
    find_scorer,
    register_scorer,
    registered_scorers,
    unregister_scorer,
)
from verl_agent_env.envs.scorers import (
    AnyScorer,
    CallableScorer,
    Extraction,
    NoScorer,
    ScorerError,
    extract_answer,
    parse_scorer,
)

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


# --- extraction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "extraction", "expected"),
    [
        (" a\nb ", "whole", "a\nb"),
        ("a\n\n b \n\n", "last_line", "b"),
        ("", "last_line", None),
        ("<answer>1</answer> no, <answer> 2 </answer>", "answer_tag", "2"),
        ("plain", "answer_tag", None),
        (r"so \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        ("plain", "boxed", None),
        (r"\boxed{1} <answer>2</answer>", "auto", "2"),
        (r"it is \boxed{1}", "auto", "1"),
        (" plain ", "auto", "plain"),
    ],
)
def test_extraction_finds_the_answer(text: str, extraction: Extraction, expected: str | None) -> None:
    assert extract_answer(text, extraction) == expected


def test_thoughts_are_no_answer_unless_asked_for() -> None:
    text = "<think>42</think>43"
    assert score(text, type="numeric", answer=42) == 0
    assert score("<think>x 42", type="regex", pattern="42", ignore_thoughts=False) == 1


# --- none, exact match -------------------------------------------------------------------------------------


def test_none_is_worth_nothing() -> None:
    assert NoScorer().score("anything") == 0.0


@pytest.mark.parametrize(
    ("answer", "options", "reward"),
    [
        ("Paris", {}, 1),
        ("  Paris\n", {}, 1),
        ("paris", {}, 0),
        ("paris", {"ignore_case": True}, 1),
        ("Paris!", {}, 0),
        ("Paris!", {"ignore_punctuation": True}, 1),
        (" Paris", {"strip": False, "extract": "whole"}, 1),
        ("<answer>Paris</answer>", {}, 1),
        ("<answer>Paris</answer>", {"extract": "whole"}, 0),
        ("Rome", {"reward": 2, "wrong_reward": -1}, -1),
        ("Paris", {"reward": 2, "wrong_reward": -1}, 2),
        ("Rome", {"answer": ["Paris", "Rome"]}, 1),
        ("Pariſ", {"normalize": "NFKC"}, 1),
    ],
)
def test_exact_match_compares_in_the_chosen_form(answer: str, options: dict[str, Any], reward: float) -> None:
    assert score(answer, **{"type": "exact_match", "answer": "Paris", **options}) == reward


def test_exact_match_needs_a_reference() -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "exact_match", "answer": []})


def test_piled_up_combining_marks_match_nothing_at_once() -> None:
    pile = "a" + "\u0315" * 10_000 + "\u0334" * 10_000
    started = time.process_time()
    assert score(pile, type="exact_match", answer="a") == 0
    assert time.process_time() - started < 0.1
    with pytest.raises(ValidationError):
        parse_scorer({"type": "exact_match", "answer": pile})
    assert score("e\u0301", type="exact_match", answer="\u00e9") == 1


def test_answer_of_any_length_is_compared_at_once() -> None:
    started = time.process_time()
    assert score("é" * 2_000_000, type="exact_match", answer="é", extract="whole") == 0
    assert time.process_time() - started < 0.5


def test_missing_part_is_wrong() -> None:
    assert score("Paris", type="exact_match", answer="Paris", extract="boxed", wrong_reward=-0.5) == -0.5


# --- regex -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "answer", "options", "reward"),
    [
        (r"\d+", "it is 42", {}, 1),
        (r"\d+", "it is 42", {"mode": "fullmatch"}, 0),
        (r"\d+", "42", {"mode": "fullmatch"}, 1),
        ("paris", "PARIS", {}, 0),
        ("paris", "PARIS", {"ignore_case": True}, 1),
        ("a.b", "a\nb", {}, 0),
        ("a.b", "a\nb", {"dot_matches_newline": True}, 1),
        ("é", "caf\u00e9", {}, 1),
        ("a", "\ud800a", {}, 1),
    ],
)
def test_regex_matches(pattern: str, answer: str, options: dict[str, Any], reward: float) -> None:
    assert score(answer, type="regex", pattern=pattern, **options) == reward


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "(?=a)b",
        r"(a)\1",
        "",
        "a" * 1001,
        "(?:(?:a{1000}){1000}){1000}",
        r"\pL{1000}",
        "a{999}{2}",
        "\ud800",
    ],
)
def test_unusable_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "regex", "pattern": pattern})


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|aa)+$",
        "(.*)*x$",
        "(?:a|b)*a(?:a|b){900}c",
        "(?:(?:a?){15}){15}(?:a{15}){15}c",
        "(?:" + "|".join(f"[a-z]*{chr(97 + i % 26)}" for i in range(90)) + "){3}!",
    ],
)
def test_catastrophic_patterns_end_soon(pattern: str) -> None:
    scorer = parse_scorer({"type": "regex", "pattern": pattern})
    started = time.process_time()
    scorer.score("ab" * 500_000 + "é!")
    assert time.process_time() - started < 1.0


def test_only_the_end_of_a_long_answer_is_searched() -> None:
    assert score("b" + "a" * 20_000 + "c", type="regex", pattern="c$") == 1
    assert score("b" + "a" * 20_000 + "c", type="regex", pattern="b") == 0
    assert score("a" * 20_000, type="regex", pattern="a+", mode="fullmatch") == 0


# --- numeric -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "answer", "options", "reward"),
    [
        (42, "The answer is 42.", {}, 1),
        (42, r"\boxed{42} (not 41)", {}, 1),
        (42, "43", {}, 0),
        (0.1, "0.1", {"abs_tolerance": 0}, 1),
        (0.1, "1/10", {"abs_tolerance": 0}, 1),
        ("1,234.5", "1234.5", {}, 1),
        ("3/4", "0.75", {}, 1),
        ("50%", "0.5", {}, 1),
        (50, "50%", {}, 0),
        (50, "50%", {"percent": "ignore"}, 1),
        (100, "101", {"rel_tolerance": 0.01}, 1),
        (100, "101.1", {"rel_tolerance": 0.01}, 0),
        (100, "101", {"abs_tolerance": 1}, 1),
        (-100, "-99", {"rel_tolerance": 0.01}, 1),
        (1, "nan", {}, 0),
        (1, "inf", {"abs_tolerance": 1e300}, 0),
        (1, "1e999999999", {"abs_tolerance": 1e300}, 0),
        (1, "no idea", {}, 0),
        (1, "", {}, 0),
    ],
)
def test_numeric_compares_within_tolerance(
    reference: object, answer: str, options: dict[str, Any], reward: float
) -> None:
    assert score(answer, type="numeric", answer=reference, **options) == reward


@pytest.mark.parametrize("reference", [math.nan, math.inf, "", "seven", "1/0", "1e999", "1 or 2"])
def test_reference_that_is_no_number_is_refused(reference: object) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "numeric", "answer": reference})


@pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
@pytest.mark.parametrize("field", ["abs_tolerance", "rel_tolerance"])
def test_tolerance_must_be_finite(field: str, tolerance: float) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "numeric", "answer": 1, field: tolerance})


# --- callables ---------------------------------------------------------------------------------------------


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


# --- the union ---------------------------------------------------------------------------------------------


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
