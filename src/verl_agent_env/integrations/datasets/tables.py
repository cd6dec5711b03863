"""Parquet files with rows in verl's format; equal rows give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_agent_env.integrations.datasets.demonstrations import Demonstration, system_messages
from verl_agent_env.integrations.datasets.plan import CurationPlan, Split
from verl_agent_env.integrations.datasets.problems import Problem
from verl_agent_env.integrations.datasets.selection import Chosen
from verl_agent_env.integrations.errors import CurationError
from verl_agent_env.integrations.rollout.row import AGENT_NAME
from verl_agent_env.wire.demonstrations import demonstration_schema

if TYPE_CHECKING:
    import pyarrow

GREEDY_SUFFIX = "-greedy"
"""Suffix of the data source of greedy test rows, so that verl reports them separately."""


def rows_of(plan: CurationPlan, split: Split, chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """Return the rows of a split, with the components mixed evenly from the first row to the last."""
    problems = mixed(chosen, split)
    prompt = plan.system_prompt
    rows = [row_of(env_name, problem, split, prompt) for env_name, problem in problems]
    if split == "test" and plan.test_greedy:
        rows += [row_of(env_name, problem, split, prompt, greedy=True) for env_name, problem in problems]
    for index, row in enumerate(rows):
        row["extra_info"]["index"] = index
    return rows


def mixed(chosen: Sequence[Chosen], split: Split) -> list[tuple[str, Problem]]:
    """Return the problems of a split in the order of its rows, each with the name of its environment."""
    return list(_interleaved([[(part.env_name, problem) for problem in part.of(split)] for part in chosen]))


def demonstration_rows(demonstrations: Sequence[Demonstration]) -> list[dict[str, Any]]:
    """Return rows for supervised fine-tuning."""
    return [
        {
            "messages": demonstration.messages,
            "tools_json": demonstration.tools,
            "reward": demonstration.reward,
            "success": demonstration.success,
        }
        for demonstration in demonstrations
    ]


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows of a split as parquet."""
    _write(table_of(rows), path)


def table_of(rows: list[dict[str, Any]]) -> pyarrow.Table:
    """Return rows of a split as an Arrow table."""
    arrow, _ = _arrow()
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    extra = [
        ("index", arrow.int64()),
        ("split", arrow.string()),
        ("env_name", arrow.string()),
        ("env_kwargs", arrow.string()),
        ("seed", arrow.int64()),
        ("layout", arrow.string()),
        ("difficulty", arrow.float64()),
        ("tools", arrow.string()),
        ("system_prompt", arrow.string()),
        ("takes_images", arrow.bool_()),
        ("greedy", arrow.bool_()),
    ]
    schema = arrow.schema(
        [
            ("data_source", arrow.string()),
            ("agent_name", arrow.string()),
            ("prompt", arrow.list_(message)),
            ("reward_model", arrow.struct([("style", arrow.string()), ("ground_truth", arrow.string())])),
            ("extra_info", arrow.struct(extra)),
        ]
    )
    return arrow.Table.from_pylist(rows, schema=schema)


def write_demonstrations(rows: list[dict[str, Any]], path: Path) -> None:
    """Write demonstrations as parquet."""
    arrow, _ = _arrow()
    _write(arrow.Table.from_pylist(rows, schema=demonstration_schema(arrow)), path)


def require_arrow() -> None:
    """Check that parquet can be written.

    Raises:
        CurationError: pyarrow is not installed.
    """
    _arrow()


def row_of(
    env_name: str, problem: Problem, split: str, system_prompt: str | None, *, greedy: bool = False
) -> dict[str, Any]:
    """Return the row of a problem; its index is 0 until it has a place among others."""
    return {
        "data_source": env_name + GREEDY_SUFFIX if greedy else env_name,
        "agent_name": AGENT_NAME,
        "prompt": [*system_messages(system_prompt), *problem.prompt],
        # verl requires this column, but the reward comes from the environment.
        "reward_model": {"style": "env", "ground_truth": ""},
        "extra_info": {
            "index": 0,
            "split": split,
            "env_name": env_name,
            "env_kwargs": problem.env_kwargs,
            "seed": problem.seed,
            "layout": problem.layout,
            "difficulty": problem.difficulty,
            "tools": problem.tools,
            "system_prompt": system_prompt,
            "takes_images": problem.takes_images,
            "greedy": greedy,
        },
    }


def _interleaved(parts: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Yield all items, those of each part spread evenly and in order."""
    placed = [
        ((position + 0.5) / len(part), number, position)
        for number, part in enumerate(parts)
        for position in range(len(part))
    ]
    for _, number, position in sorted(placed):
        yield parts[number][position]


def _write(table: pyarrow.Table, path: Path) -> None:
    _, parquet = _arrow()
    unfinished = path.with_name(path.name + ".part")
    parquet.write_table(table, unfinished, compression="zstd", row_group_size=4096)
    # Atomically: a training run may be reading the old file.
    unfinished.replace(path)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CurationError("Writing parquet needs pyarrow: pip install 'verl-agent-env[curate]'.") from None
    return pyarrow, pyarrow.parquet
