"""Task lists in files: JSON lines, or parquet, among them the files that ``verl-agent-env curate`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.tasks import TaskList
from verl_agent_env.errors import InvalidEnvArgumentsError, UnknownEnvNameError

_ROWS_AT_A_TIME = 4096
_PARQUET = ".parquet"


def read_task_files(registry: Registry, given: Sequence[str]) -> dict[str, TaskList]:
    """Read task lists.

    Args:
        registry: The environments.
        given: ``NAME=FILE`` each. Of a file, those rows belong to the environment that name it, or none; several files of
            one name follow each other. A row without a split belongs to the one that the file is named for.

    Returns:
        The lists by full names.

    Raises:
        ValueError: There is no such environment or file, or a row is no task for it; one sentence says which.
    """
    lists: dict[str, TaskList] = {}
    for item in given:
        name, _, path = item.partition("=")
        if not name or not path:
            raise ValueError(f"tasks takes NAME=FILE, not '{item}'")
        try:
            full = registry.resolve(name)
        except UnknownEnvNameError as unknown:
            raise ValueError(f"tasks '{item}': {unknown.detail}") from None
        added = _read_file(registry, full, Path(path), lists.setdefault(full, TaskList()))
        if not added:
            raise ValueError(f"tasks '{item}': the file has no task of '{full}'")
    return lists


def _read_file(registry: Registry, env_name: str, path: Path, into: TaskList) -> int:
    before = len(into)
    kind = registry.kind(env_name)
    try:
        for number, row in enumerate(_rows_in(path), 1):
            try:
                task = _task_of(row)
                named = task.get("env_name")
                if task and (named is None or registry.resolve(named) == env_name):
                    into.add(task, path.stem)
                    if len(into) == before + 1:
                        # Of one row: a file is often of one make, and all others are checked when they are played.
                        first = into.splits()[-1]
                        kind.validate(into.task(first.name, first.num_tasks - 1).env_kwargs)
            except (ValueError, UnknownEnvNameError) as unfit:
                reason = unfit.detail if isinstance(unfit, InvalidEnvArgumentsError) else str(unfit)
                raise ValueError(f"{path}, task {number}: {reason}") from None
    except OSError as unreadable:
        raise ValueError(f"tasks in '{path}' cannot be read: {unreadable.strerror or unreadable}") from None
    return len(into) - before


def _rows_in(path: Path) -> Iterator[Mapping[str, Any]]:
    rows: Iterable[Any] = parquet_rows(path) if path.suffix == _PARQUET else _json_lines(path)
    for row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"tasks in '{path}' are JSON objects, one a line, not {row!r:.80}")
        yield row


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError as malformed:
                    raise ValueError(f"'{path}', line {number} is not JSON: {malformed}") from None


def parquet_rows(path: Path) -> Iterator[Any]:
    """Read the rows of a parquet file, a few thousand at a time.

    Raises:
        ValueError: pyarrow is not installed, or the file is no parquet; names the file.
        OSError: The file cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"'{path}' is parquet, and pyarrow is not installed; pip install 'verl-agent-env[curate]' does"
        ) from None
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS_AT_A_TIME):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as broken:
        raise ValueError(f"'{path}' cannot be read as parquet: {broken}") from None


def _task_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a task; empty for a curated row that repeats another one for greedy play."""
    extra = row.get("extra_info")
    if not isinstance(extra, Mapping):
        return row
    if extra.get("greedy"):
        return {}
    return {name: extra.get(name) for name in ("env_name", "env_kwargs", "seed", "split")}
