"""Curation of a data set: selects its rows, plays its demonstrations, and writes its files."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from verl_agent_env import __version__
from verl_agent_env.integrations.datasets.demonstrations import Demonstration, Manner, demonstrate
from verl_agent_env.integrations.datasets.histogram import Series, histogram_svg
from verl_agent_env.integrations.datasets.plan import CurationPlan, Split
from verl_agent_env.integrations.datasets.selection import Chosen, Progress, begin_process, choose
from verl_agent_env.integrations.datasets.tables import (
    demonstration_rows,
    mixed,
    require_arrow,
    rows_of,
    write_demonstrations,
    write_rows,
)
from verl_agent_env.integrations.datasets.workers import Workers

REPORT = "curation.json"
PICTURE = "difficulty.svg"


class Curated(NamedTuple):
    """A data set that was written."""

    files: list[Path]
    chosen: list[Chosen]
    success_rate: float | None
    """Success rate of the demonstrations; None without any."""


def curate(plan: CurationPlan, out: Path, *, workers: int = 1, progress: Progress | None = None) -> Curated:
    """Write the data set of ``plan`` into the folder ``out``.

    The files are ``train.parquet`` and ``test.parquet`` (those with rows), ``sft.parquet`` with demonstrations,
    ``difficulty.svg``, and ``curation.json``, which has the plan and the numbers of rejected problems. Equal plans give
    equal bytes, whatever ``workers`` is.

    Raises:
        UnknownEnvNameError, InvalidEnvArgumentsError: There is no such environment.
        CurationError: There are not enough different problems, or pyarrow is missing.
    """
    require_arrow()
    report_progress = progress or (lambda _: None)
    with Workers(workers, begin_process, plan) as pool:
        chosen = choose(plan, pool, report_progress)
        demonstrations = _demonstrated(plan, chosen, pool, report_progress)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        rows = rows_of(plan, split, chosen)
        if rows:
            files.append(out / f"{split}.parquet")
            write_rows(rows, files[-1])
    success_rate = None
    if plan.demonstrations:
        files.append(out / "sft.parquet")
        write_demonstrations(demonstration_rows(demonstrations), files[-1])
        success_rate = sum(one.success for one in demonstrations) / len(demonstrations)
    files += [out / PICTURE, out / REPORT]
    (out / PICTURE).write_text(histogram_svg([_series(part) for part in chosen]), "utf-8")
    (out / REPORT).write_bytes(_report(plan, chosen, success_rate))
    return Curated(files, chosen, success_rate)


def _demonstrated(
    plan: CurationPlan, chosen: list[Chosen], workers: Workers, progress: Progress
) -> list[Demonstration]:
    """Play the demonstrations of the plan, on the first training rows."""
    named = mixed(chosen, "train")[: plan.demonstrations]
    demonstrations = []
    for demonstration in workers.map(partial(demonstrate, Manner.of(plan)), named):
        demonstrations.append(demonstration)
        progress(1)
    return demonstrations


def _series(part: Chosen) -> Series:
    known = {
        split: [problem.difficulty for problem in problems if problem.difficulty is not None]
        for split, problems in (("train", part.train), ("test", part.test))
    }
    return Series(part.env_name, known["train"], known["test"])


def _report(plan: CurationPlan, chosen: list[Chosen], success_rate: float | None) -> bytes:
    asked = dataclasses.asdict(plan)
    for component in asked["components"]:
        given = component.pop("given")
        component["problems"] = None if given is None else len(given)
    document: dict[str, Any] = {
        "version": __version__,
        "plan": asked,
        "components": [
            {
                "env_name": part.env_name,
                "train": len(part.train),
                "test": len(part.test),
                "different_layouts": len({problem.layout for problem in (*part.train, *part.test)}),
                "passed_over": dict(sorted(part.passed_over.items())),
            }
            for part in chosen
        ],
        "demonstrated_success": success_rate,
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
