"""The tree of errors: codes, problem documents, and the picture of it in the docstring."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Any

import orjson
import pytest

from verl_agent_env import errors
from verl_agent_env.errors import (
    InternalError,
    InvalidEnvArgumentsError,
    SequenceGapError,
    VerlAgentEnvError,
    all_errors,
    error_from_body,
    error_from_problem,
)

ALL = list(all_errors())

_LINE = re.compile(r"^ {4}([│├└─ ]*)(\w+Error)(?: +(\w+) +(\d{3})( +yes)?)?$", re.MULTILINE)


def filled(cls: type[VerlAgentEnvError]) -> VerlAgentEnvError:
    """An instance whose fields differ from their defaults."""
    samples: dict[str, Any] = {
        "str": "text",
        "int": 7,
        "bool": True,
        "float": 1.5,
        "list[str]": ["a", "b"],
        "list[int]": [0, 2],
        "list[dict[str, Any]]": [{"loc": ["a", 0], "msg": "is wrong"}],
    }
    return cls(**{field.name: samples[str(field.type)] for field in dataclasses.fields(cls)})


def test_codes_are_unique() -> None:
    assert max(Counter(cls.code for cls in ALL).values()) == 1


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.code)
def test_problem_document_gives_the_error_back(cls: type[VerlAgentEnvError]) -> None:
    error = filled(cls)
    problem = error.to_problem()
    again = error_from_problem(problem)
    assert type(again) is cls
    assert again.fields() == error.fields()
    assert problem["type"] == f"urn:verl-agent-env:error:{cls.code}"
    assert (problem["code"], problem["status"], problem["title"]) == (cls.code, cls.status, cls.title)
    assert problem["retryable"] is cls.retryable
    assert problem["detail"] == str(error)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.code)
def test_details_are_sentences_also_without_fields(cls: type[VerlAgentEnvError]) -> None:
    assert cls.title != VerlAgentEnvError.title
    assert cls().detail.endswith((".", "?"))
    assert filled(cls).detail.endswith(".")
    assert 400 <= cls.status < 600


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls.detail_format], ids=lambda cls: cls.code)
def test_a_detail_is_its_format_filled_with_the_fields(cls: type[VerlAgentEnvError]) -> None:
    error = filled(cls)
    assert error.detail == cls.detail_format.format(**error.fields())


def test_class_of_another_package_sets_its_attributes_in_the_body() -> None:
    @dataclasses.dataclass(eq=False)
    class TooLoudError(errors.ExecutionError):
        status = 429
        title = "The answer is too loud"
        loudness_db: float = 0.0

        @property
        def detail(self) -> str:
            return f"{self.loudness_db:g} dB are too loud."

    error = TooLoudError(90.0)
    assert (error.status, error.detail, error.fields()) == (429, "90 dB are too loud.", {"loudness_db": 90.0})
    assert isinstance(error, errors.ExecutionError)


def raised_from_another() -> None:
    try:
        raise ValueError
    except ValueError as cause:
        raise InternalError from cause


def test_result_keeps_nothing_of_where_it_was_raised() -> None:
    with pytest.raises(InternalError) as raised:
        raised_from_another()
    error = raised.value.as_result()
    assert error is raised.value
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_unknown_code_becomes_an_internal_error() -> None:
    assert type(error_from_problem({"code": "from_the_future", "whatever": 1})) is InternalError
    assert type(error_from_problem({})) is InternalError


def test_fields_of_the_problem_that_the_error_lacks_are_passed_over() -> None:
    error = error_from_problem({"code": "sequence_gap", "seq": 5, "expected_seq": 3, "instance": "/x"})
    assert isinstance(error, SequenceGapError)
    assert (error.seq, error.expected_seq) == (5, 3)


def test_many_faults_are_cut_in_the_detail_only() -> None:
    error = InvalidEnvArgumentsError("lake", [{"loc": ["desc", n], "msg": f"fault {n}"} for n in range(9)])
    assert "desc.2: fault 2" in error.detail
    assert "fault 3" not in error.detail
    assert "6 more" in error.detail
    assert len(error.to_problem()["errors"]) == 9
    assert isinstance(error, ValueError)


def test_docstring_draws_the_tree_as_it_is() -> None:
    drawn: dict[str, tuple[str, str | None, int | None, bool]] = {}
    path = ["VerlAgentEnvError"]
    for branch, name, code, status, retryable in _LINE.findall(str(errors.__doc__)):
        del path[len(branch) // 4 :]
        drawn[name] = (
            path[-1],
            code or None,
            int(status or 0) or None,
            bool(retryable),
        )
        path.append(name)

    def of(cls: type[VerlAgentEnvError]) -> tuple[str, str | None, int | None, bool]:
        grouping = not cls.code
        return (
            cls.__bases__[0].__name__,
            None if grouping else cls.code,
            None if grouping else cls.status,
            False if grouping else cls.retryable,
        )

    classes = [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, VerlAgentEnvError) and cls is not VerlAgentEnvError
    ]
    assert drawn == {cls.__name__: of(cls) for cls in classes}


def test_a_body_is_the_error_that_it_was_made_of() -> None:
    error = error_from_body(orjson.dumps(errors.MovedError(7).to_problem()))
    assert isinstance(error, errors.MovedError)
    assert error.slot == 7


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"code"', b"{}", b'{"error": "busy"}'])
def test_a_body_of_something_else_is_no_error_of_ours(body: bytes) -> None:
    assert error_from_body(body) is None
