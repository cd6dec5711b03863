"""Problems of one's own: files and rows as data sets have them, turned into keyword arguments of an environment.

Rows are read in these forms, the first that fits:

- keyword arguments, ``{"env_kwargs": …}``, and rows of ``verl-agent-env curate`` (``extra_info``);
- Countdown: ``numbers`` or ``nums`` with ``target``, at the top, in ``metadata`` (reasoning-gym) or in
  ``reward_model.ground_truth`` (verl, TinyZero);
- Sokoban: ``room_setup``, also as Arrow writes it, or ``level`` as text;
- FrozenLake: ``desc``, also as one text;
- single-turn chat: ``question`` with ``answer``, or verl's ``prompt`` with ``reward_model.ground_truth``.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.task_files import parquet_rows
from verl_agent_env.integrations.errors import CurationError

_TEXT_SUFFIXES = frozenset({".txt", ".xsb", ".sok", ".slc"})
_LEVEL_LINE = re.compile(r"[#@+$*.\-_ ]*#[#@+$*.\-_ ]*")
_FINAL_ANSWER = re.compile(r"####\s*(.+?)\s*$")
"""How the answers of GSM8K end."""
_WHOLE_NUMBER = re.compile(r"\s*([-+]?\d+)(?:\.0*)?\s*")
_LINE_END = re.compile(r"\r\n?|\n")
_PARQUET_MARK = b"PAR1"
_GZIP_MARK = b"\x1f\x8b"
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+")


class GivenProblem(NamedTuple):
    """A row that may become a problem."""

    place: str
    """Where it was: ``line 3``."""
    env_kwargs: dict[str, Any] | None
    """Keyword arguments; ``None`` if it cannot be read."""
    reason: str = ""
    """Why it cannot be read."""


class _UnreadableError(Exception):
    """A row has none of the forms; the message says what it lacks."""


def read_problems(path: Path, env_name: str) -> tuple[GivenProblem, ...]:
    """Read a file: JSON lines, a JSON list, parquet, or Sokoban levels as text (Boxoban's files), also compressed by gzip.

    Raises:
        CurationError: The file cannot be read at all; a row that cannot is kept with its reason.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".parquet" or content.startswith(_PARQUET_MARK):
            return problems_of(parquet_rows(path), env_name)
        name = path
        if content.startswith(_GZIP_MARK):
            content, name = gzip.decompress(content), path.with_suffix("") if path.suffix == ".gz" else path
        text = _decoded(content)
    except (OSError, UnicodeError, EOFError, zlib.error) as fault:
        raise CurationError(f"'{path}' cannot be read: {fault}.") from None
    except ValueError as unfit:
        raise CurationError(f"{unfit}.") from None
    if name.suffix in _TEXT_SUFFIXES:
        return tuple(GivenProblem(place, {"room": level}) for place, level in _levels_in(text))
    if text.lstrip().startswith("["):
        return problems_of(_json_list(path, text), env_name)
    reader = _RowReader(env_name)
    lines = [(number, line) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
    if lines and isinstance(_json_of(lines[0][1]), _UnreadableError):
        whole = _json_of(text)
        if not isinstance(whole, _UnreadableError):
            # One row, whose object is written over several lines.
            return (reader.problem("row 1", whole),)
    return tuple(reader.problem(f"line {number}", _json_of(line)) for number, line in lines)


def problems_of(rows: Iterable[Any], env_name: str) -> tuple[GivenProblem, ...]:
    """Read rows: mappings, a ``datasets.Dataset``, or anything else that gives one mapping after the other.

    Raises:
        CurationError: They are no rows.
    """
    if isinstance(rows, Mapping | str | bytes) or not hasattr(rows, "__iter__"):
        # datasets.DatasetDict, or one row in place of many.
        raise CurationError("Problems are rows, one after the other: choose a split, or write a list.")
    reader = _RowReader(env_name)
    return tuple(reader.problem(f"row {number}", row) for number, row in enumerate(rows, 1))


# --- files --------------------------------------------------------------------------------------------------


def _decoded(content: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(name)
    return content.decode("utf-8")


def _json_of(line: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as malformed:
        return _UnreadableError(f"it is no JSON: {malformed}")


def _json_list(path: Path, text: str) -> list[Any]:
    try:
        rows = orjson.loads(text)
    except orjson.JSONDecodeError as malformed:
        raise CurationError(f"'{path}' is no JSON: {malformed}.") from None
    return list(rows)


def _levels_in(text: str) -> Iterator[tuple[str, str]]:
    """Give each level with its place; what is no row of a level, such as ``; 12`` or a title, stands between two."""
    rows: list[str] = []
    first, count = 0, 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if _LEVEL_LINE.fullmatch(line.rstrip()):
            first = first or number
            rows.append(line)
        elif rows:
            count += 1
            yield f"level {count} (line {first})", "\n".join(rows)
            rows, first = [], 0


# --- rows ---------------------------------------------------------------------------------------------------


class _RowReader:
    """Reads rows for one environment."""

    def __init__(self, env_name: str) -> None:
        kind = default_registry().kind(env_name)
        self._arguments = frozenset(kind.arguments_schema().get("properties", ()))
        # Presets are read as the environment that they are presets of.
        self._own_form = _OWN_FORMS.get(getattr(kind.env_class, "env_name", kind.name))

    def problem(self, place: str, row: Any) -> GivenProblem:
        """Read one row; never raises."""
        try:
            if isinstance(row, _UnreadableError):
                raise row
            if not isinstance(row, Mapping):
                raise _UnreadableError(f"it is no object, but {row!r:.80}")
            return GivenProblem(place, self._kwargs_of(row))
        except _UnreadableError as unreadable:
            return GivenProblem(place, None, str(unreadable))
        except (AttributeError, TypeError, ValueError) as unfit:
            return GivenProblem(place, None, f"a value of it has a type that belongs elsewhere ({unfit})")

    def _kwargs_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if "env_kwargs" in row:
            return _object(row["env_kwargs"], "env_kwargs")
        extra = row.get("extra_info")
        if isinstance(extra, Mapping) and extra.get("env_kwargs"):
            return _object(extra["env_kwargs"], "extra_info.env_kwargs")
        found = None if self._own_form is None else self._own_form(row)
        if found is not None:
            # Further arguments may stand beside: {"numbers": …, "target": …, "max_steps": 3}.
            beside = {name: row[name] for name in row if name in self._arguments and name not in found}
            return {**beside, **found}
        unknown = [name for name in row if name not in self._arguments]
        if unknown or not row:
            raise _UnreadableError(
                f"it has {', '.join(map(repr, row)) or 'nothing'}, which is none of the forms that are read"
            )
        return dict(row)


def _countdown(row: Mapping[str, Any]) -> dict[str, Any] | None:
    for part in (row, row.get("metadata"), _ground_truth(row)):
        if isinstance(part, Mapping) and part.get("target") is not None:
            numbers = part.get("numbers", part.get("nums"))
            if numbers is not None:
                return {"numbers": _whole(numbers), "target": _whole([part["target"]])[0]}
    return None


def _whole(values: Any) -> list[int]:
    """Read whole numbers, which Arrow and JSON may have made floats, NumPy arrays, and text files text."""
    values = _lists(values)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise _UnreadableError(f"its numbers are no list, but {values!r:.80}")
    found = []
    for given in values:
        value = given
        if isinstance(given, str):
            written = _WHOLE_NUMBER.fullmatch(given)
            value = "" if written is None else written[1]
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise _UnreadableError(f"{given!r:.80} is no whole number") from None
        if isinstance(value, bool) or (not isinstance(value, str) and number != value):
            raise _UnreadableError(f"{value!r} is no whole number")
        found.append(number)
    return found


def _sokoban(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row.get("room_setup") is not None:
        return {"room_setup": _room_setup(_object(row["room_setup"], "room_setup"))}
    if row.get("room_fixed") is not None and row.get("room_state") is not None:
        return {"room_setup": _room_setup(row)}
    level = row.get("level", row.get("room"))
    return {"room": level} if isinstance(level, str) else None


def _room_setup(setup: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what Arrow makes of ``box_mapping``: a column for each key of any row, pairs, or text."""
    mapping = setup.get("box_mapping")
    if isinstance(mapping, str):
        mapping = _object(mapping, "box_mapping") if mapping else None
    elif isinstance(mapping, Sequence):
        try:
            mapping = {
                str(tuple(key)) if isinstance(key, Sequence) and not isinstance(key, str) else str(key): place
                for key, place in mapping
            }
        except (TypeError, ValueError):
            raise _UnreadableError("box_mapping is no mapping of positions") from None
    if isinstance(mapping, Mapping):
        # Keys of other rows hold nothing here.
        mapping = {key: place for key, place in mapping.items() if place is not None} or None
    return {
        "room_fixed": _lists(setup.get("room_fixed")),
        "room_state": _lists(setup.get("room_state")),
        "box_mapping": mapping,
    }


def _frozen_lake(row: Mapping[str, Any]) -> dict[str, Any] | None:
    desc = row.get("desc", row.get("map"))
    if isinstance(desc, str):
        return {"desc": desc.split()}
    return (
        None
        if desc is None
        else {"desc": ["".join(line) if not isinstance(line, str) else line for line in desc]}
    )


def _chat(row: Mapping[str, Any]) -> dict[str, Any] | None:
    answer = row.get("answer", _ground_truth(row))
    prompt = row.get("question", row.get("prompt", row.get("problem")))
    if answer is None or prompt is None:
        return None
    answer = str(answer)
    final = _FINAL_ANSWER.search(answer)
    reference = final.group(1) if final else answer.strip()
    asked: dict[str, Any]
    if isinstance(prompt, str):
        asked = {"task_prompt": prompt}
    else:
        *before, last = [dict(message) for message in prompt]
        asked = {"chat_history": before, "task_prompt": last.get("content")}
    kind = "numeric" if _NUMBER.fullmatch(reference) else "exact_match"
    return {**asked, "scorer": {"type": kind, "answer": reference}}


def _ground_truth(row: Mapping[str, Any]) -> Any:
    model = row.get("reward_model")
    return model.get("ground_truth") if isinstance(model, Mapping) else None


def _lists(value: Any) -> Any:
    """Return NumPy's arrays as lists, also within each other, as pandas gives nested rows."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _object(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, str | bytes):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise _UnreadableError(f"{name} is no JSON") from None
    if not isinstance(value, Mapping):
        raise _UnreadableError(f"{name} is no object")
    return dict(value)


_OWN_FORMS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "verl_env/countdown-v0": _countdown,
    "verl_env/sokoban-v0": _sokoban,
    "verl_env/frozen_lake-v1": _frozen_lake,
    "verl_env/single_turn_chat-v0": _chat,
}
