"""Problems of one's own: files and rows as data sets have them, turned into keyword arguments of an environment.

Rows are read in these forms, the first that fits:

- keyword arguments, ``{"env_kwargs": …}``, and rows of ``verl-agent-env curate`` (``extra_info``);
- Countdown: ``numbers`` or ``nums`` with ``target``, at the top, in ``metadata`` (reasoning-gym) or in
  ``reward_model.ground_truth`` (verl, TinyZero);
- Sokoban: ``room_setup``, also as Arrow writes it, or ``level`` as text;
- FrozenLake: ``desc``, also as one text;
- single-turn chat: ``question`` with ``answer``, or verl's ``prompt`` with ``reward_model.ground_truth``; several answers are
  references of which each is right.

A column that holds nothing counts as missing: Arrow gives each row the columns of all. Objects and lists may be JSON text, as
CSV holds them.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
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
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
"""Of these, what stands most often in the first line separates the fields."""
_LEVEL_LINE = re.compile(r"[#@+$*.\-_ ]*#[#@+$*.\-_ ]*")
_FINAL_ANSWER = re.compile(r"####\s*(.+?)\s*$")
"""How the answers of GSM8K end."""
_WHOLE_NUMBER = re.compile(r"\s*([-+]?\d+)(?:\.0*)?\s*")
_LINE_END = re.compile(r"\r\n?|\n")
_PARQUET_MARK = b"PAR1"
_NUMBERS = (
    # How Python, NumPy and JSON write a list of numbers.
    re.compile(r"\s*\[(.*)\]\s*", re.DOTALL),
    re.compile(r"\s*\((.*)\)\s*", re.DOTALL),
)
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
    """Read a file: JSON lines, a JSON list, parquet, CSV, or Sokoban levels as text (Boxoban's files).

    It may be compressed by gzip, bzip2, xz or Zstandard.

    Raises:
        CurationError: The file cannot be read at all; a row that cannot is kept with its reason.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".parquet" or content.startswith(_PARQUET_MARK):
            return problems_of(parquet_rows(path), env_name)
        content, suffix = _unpacked(path, content)
        text = _decoded(content)
        reader = _RowReader(env_name)
        if suffix in _DELIMITERS:
            return tuple(reader.problem(place, row) for place, row in _fields_in(text, _DELIMITERS[suffix]))
        if reader.reads_levels:
            levels = tuple(GivenProblem(place, {"room": level}) for place, level in _levels_in(text))
            if levels or suffix in _TEXT_SUFFIXES:
                return levels
    except (OSError, UnicodeError, EOFError, zlib.error, lzma.LZMAError, csv.Error) as fault:
        raise CurationError(f"'{path}' cannot be read: {fault}.") from None
    except ValueError as unfit:
        raise CurationError(f"{unfit}.") from None
    if text.lstrip().startswith("["):
        return problems_of(_json_list(path, text), env_name)
    lines = [(number, line) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
    if lines and isinstance(_json_of(lines[0][1]), _UnreadableError):
        whole = _json_of(text)
        if not isinstance(whole, _UnreadableError):
            # One row, whose object is written over several lines.
            return (reader.problem("row 1", whole),)
    return tuple(reader.problem(f"line {number}", _json_of(line)) for number, line in lines)


def problems_of(rows: Iterable[Any], env_name: str) -> tuple[GivenProblem, ...]:
    """Read rows: mappings, a ``datasets.Dataset``, a table of Arrow, pandas or polars, or anything else that gives mappings.

    Raises:
        CurationError: They are no rows.
    """
    # Tables give their columns, one after the other.
    for mark, method, given in _TABLES:
        if hasattr(rows, mark):
            rows = getattr(rows, method)(*given)
            break
    if isinstance(rows, Mapping | str | bytes) or not hasattr(rows, "__iter__"):
        # datasets.DatasetDict, or one row in place of many.
        raise CurationError("Problems are rows, one after the other: choose a split, or write a list.")
    reader = _RowReader(env_name)
    return tuple(reader.problem(f"row {number}", row) for number, row in enumerate(rows, 1))


_TABLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("to_pylist", "to_pylist", ()),
    ("itertuples", "to_dict", ("records",)),
    ("to_dicts", "to_dicts", ()),
)
"""By what a table of Arrow, pandas or polars is known, and how it gives its rows."""

# --- files --------------------------------------------------------------------------------------------------


def _unpacked(path: Path, content: bytes) -> tuple[bytes, str]:
    """Return a file's content without compression, and the suffix of its name that says what it is."""
    for mark, unpack in _COMPRESSIONS:
        if content.startswith(mark):
            name = path.with_suffix("") if path.suffix in _COMPRESSED_SUFFIXES else path
            try:
                return unpack(content), name.suffix
            except ValueError as cut_off:
                # That of bzip2.
                raise EOFError(str(cut_off)) from None
    return content, path.suffix


def _unpacked_zstd(content: bytes) -> bytes:
    import pyarrow

    packed = pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd")
    unpacked: bytes = packed.read()
    return unpacked


_COMPRESSED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst"})
_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", gzip.decompress),
    (b"BZh", bz2.decompress),
    (b"\xfd7zXZ\x00", lzma.decompress),
    (b"\x28\xb5\x2f\xfd", _unpacked_zstd),
)
"""The first bytes of each, and what undoes it."""


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


def _fields_in(text: str, delimiters: str) -> Iterator[tuple[str, Any]]:
    """Give each row of CSV with its place, without its empty fields."""
    heading = text.lstrip().partition("\n")[0]
    # Line ends within quotes are those of the value: not split before.
    rows = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter=max(delimiters, key=heading.count),
        skipinitialspace=True,
        strict=True,
    )
    first = 2
    for row in rows:
        place, first = f"line {first}", rows.line_num + 1
        if None in row:
            yield place, _UnreadableError("it has more fields than the first line names")
        else:
            yield place, {name: value for name, value in row.items() if value}


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

    @property
    def reads_levels(self) -> bool:
        """True if a text may hold levels."""
        return self._own_form is _sokoban

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

    def _kwargs_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        row = {name: value for name, value in given.items() if value is not None}
        if "env_kwargs" in row:
            return _object(row["env_kwargs"], "env_kwargs")
        extra = _part(row, "extra_info")
        if extra.get("env_kwargs"):
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
        return row


def _part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object that a column holds, also as JSON text; an empty one if it holds anything else."""
    value = row.get(name)
    if isinstance(value, str):
        value = _json_of(value)
    return value if isinstance(value, Mapping) else {}


def _countdown(row: Mapping[str, Any]) -> dict[str, Any] | None:
    for part in (row, _part(row, "metadata"), _part(_part(row, "reward_model"), "ground_truth")):
        if part.get("target") is not None:
            numbers = part.get("numbers", part.get("nums"))
            if numbers is not None:
                return {"numbers": _whole(numbers), "target": _whole([part["target"]])[0]}
    return None


def _whole(values: Any) -> list[int]:
    """Read whole numbers, which Arrow and JSON may have made floats, NumPy arrays, and text files text."""
    values = _lists(values)
    if isinstance(values, str):
        listed = next(filter(None, (form.fullmatch(values) for form in _NUMBERS)), None)
        values = values if listed is None else listed[1].replace(",", " ").split()
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
    level = _lists(row.get("level", row.get("room")))
    if isinstance(level, list) and all(isinstance(line, str) for line in level):
        level = "\n".join(level)
    return {"room": level} if isinstance(level, str) else None


def _room_setup(setup: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what Arrow makes of ``box_mapping``: a column for each key of any row, pairs, or text."""
    mapping = _lists(setup.get("box_mapping"))
    if isinstance(mapping, str):
        mapping = _object(mapping, "box_mapping") if mapping else None
    elif isinstance(mapping, Sequence):
        if all(isinstance(pair, Mapping) for pair in mapping):
            mapping = [(pair.get("key"), pair.get("value")) for pair in mapping]
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
        "room_fixed": _codes(setup.get("room_fixed")),
        "room_state": _codes(setup.get("room_state")),
        "box_mapping": mapping,
    }


def _codes(room: Any) -> Any:
    """Return a room as lists of whole numbers, which text files may have made text, and tables floats."""
    rows = _lists(_json_of(room) if isinstance(room, str) else room)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        # The environment says what is wrong with it.
        return rows
    return [
        [int(code) if isinstance(code, float) and code.is_integer() else code for code in row] for row in rows
    ]


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
    answer = _lists(row.get("answer", _part(row, "reward_model").get("ground_truth")))
    prompt = _lists(row.get("question", row.get("prompt", row.get("problem"))))
    if answer is None or prompt is None:
        return None
    references = [_reference(each) for each in (answer if isinstance(answer, list) else [answer])]
    if not references:
        raise _UnreadableError("its list of answers is empty")
    if isinstance(prompt, str) and prompt.lstrip().startswith("["):
        messages = _json_of(prompt)
        is_conversation = isinstance(messages, list) and all(isinstance(each, Mapping) for each in messages)
        prompt = messages if is_conversation and messages else prompt
    asked: dict[str, Any]
    if isinstance(prompt, str):
        asked = {"task_prompt": prompt}
    else:
        *before, last = [dict(message) for message in prompt]
        asked = {"chat_history": before, "task_prompt": last.get("content")}
    if len(references) > 1:
        return {**asked, "scorer": {"type": "exact_match", "answer": references}}
    kind = "numeric" if _NUMBER.fullmatch(references[0]) else "exact_match"
    return {**asked, "scorer": {"type": kind, "answer": references[0]}}


def _reference(answer: Any) -> str:
    """Return the text of a right answer, without the way to it as GSM8K's answers have it."""
    if not isinstance(answer, str | int | float) or answer != answer:
        raise _UnreadableError(f"its answer is neither text nor a number, but {answer!r:.80}")
    text = str(answer)
    final = _FINAL_ANSWER.search(text)
    return final.group(1) if final else text.strip()


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
