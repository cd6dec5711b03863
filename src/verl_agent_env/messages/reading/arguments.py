"""Parser of the parts of a call: its name, its arguments, and values written as bare text.

Common additions of models are removed: namespaces, tokens that ran into a name, JSON within JSON, code fences. Missing parts
are not invented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from verl_agent_env.messages.reading.literals import MalformedError, read_value, scan_value
from verl_agent_env.messages.tools import Tool

Tools: TypeAlias = Mapping[str, Tool]
"""Available tools by name; empty if they are not known."""

_RECIPIENT = re.compile(r".*\bto=", re.DOTALL)
# What runs into a name behind it: the number of a call, the channel of harmony, an empty call, a method of Llama's.
_BEHIND_NAMES = re.compile(
    r"(?::\d{1,4}|(?:<[|｜/]|\[|\().*|\.call|[ \t]*+(?:commentary|analysis|json|code))\Z", re.DOTALL
)
_WITHIN_NAMES = re.compile(r"[.:/]|__|<｜tool▁sep｜>")
_NOT_IN_NAMES = re.compile(r"\A\W+|\W+\Z")
_JOINS_WORDS = re.compile(r"[\s-]+|(?<=[a-z0-9])(?=[A-Z])")
_NAMESPACE = re.compile(r"(?:(?:functions?|tools?|default_api|api)[./][\s`\"']*+)++")
_WITHOUT_WIDTH = "\ufeff\u200b\u200c\u200d\u2060"
_AROUND_NAMES = " \t\r\n`\"'"
_FENCE = re.compile(r"\A```\w*+[ \t]*+\n?(.*?)\n?[ \t]*+```\Z", re.DOTALL)
_SEPARATORS = re.compile(r"[\s,;]*+")
# Behind whole arguments: tokens and tags of the format, and a bracket too many.
_BEHIND_VALUES = re.compile(r"(?:[\s,;}\])]|</?[^<>\s]{1,40}>)*+\Z")
_INTEGER = re.compile(r"[+-]?\d{1,19}(?:\.0*+)?+")

MAX_CALLS = 1_024
"""Limit of the calls and moves read from a text, above that of a turn. Later ones are ignored."""
_MAX_LAYERS = 4
_MAX_NAME_CHARS = 256
_OTHER_NAME_KEYS = ("function", "tool_name", "tool", "function_name", "recipient_name", "action")
_ORDERED_KEYS = (
    "arguments",
    "parameters",
    "args",
    "input",
    "action_input",
    "tool_input",
    "params",
    "kwargs",
    "tool_args",
)
ARGUMENT_KEYS = frozenset(_ORDERED_KEYS)
"""Keys of a call's arguments."""
_ID_KEYS = ("call_id", "id", "toolUseId", "tool_call_id")
_NO_ARGUMENTS = frozenset({"name", "type", "index", *_ID_KEYS})
_WRAPPER_KEYS = (
    *("function", "tool_calls", "function_calls", "tool_uses", "tool_call", "function_call"),
    *("toolUse", "functionCall", "custom"),
)
_PARALLEL = "multi_tool_use.parallel"


class BesideName(dict[str, Any]):
    """Entries of a call beside its name, where it holds no arguments: those that the tool has are its arguments."""


class WrittenCall(NamedTuple):
    """Call as written, not yet validated."""

    name: object
    arguments: object
    """Object, JSON text, or unreadable text; ``None`` without arguments."""
    id: object = None


# --- names --------------------------------------------------------------------------------------------------


def clean_name(name: object, tools: Tools) -> str:
    """Return the tool's name in the text of a name; empty if there is none.

    ``functions.up``, `` up ``, ``up()`` and ``up<|channel|>commentary`` name ``up``, unless a tool has that very name. If the
    tools are known, so do ``up:0``, ``game.up``, ``mcp__game__up``, ``to=up`` and ``Up``.
    """
    if not isinstance(name, str):
        return ""
    if name in tools:
        return name
    known = _known_name(name, tools) if tools and len(name) <= _MAX_NAME_CHARS else None
    if known is not None:
        return known
    name = name.partition("<|")[0].strip(_AROUND_NAMES).removesuffix("()").rstrip(_AROUND_NAMES)
    namespace = _NAMESPACE.match(name)
    if name not in tools and namespace is not None:
        name = name[namespace.end() :]
    return name


def _known_name(written: str, tools: Tools) -> str | None:
    """Return the only tool that ``written`` can name, with what models add to names; ``None`` if there is none."""
    recipient = _RECIPIENT.match(written)
    text = _NOT_IN_NAMES.sub("", written if recipient is None else written[recipient.end() :])
    texts = [text]
    for _ in range(_MAX_LAYERS):
        text = _NOT_IN_NAMES.sub("", _BEHIND_NAMES.sub("", text))
        if text == texts[-1]:
            break
        texts.append(text)
    names = [name for text in texts for name in (text, _WITHIN_NAMES.split(text)[-1])]
    known = next((name for name in names if name in tools), None)
    if known is not None:
        return known
    spellings = {_JOINS_WORDS.sub("_", name).casefold() for name in names}
    alike = [tool for tool in tools if _JOINS_WORDS.sub("_", tool).casefold() in spellings]
    return alike[0] if len(alike) == 1 else None


# --- arguments ----------------------------------------------------------------------------------------------


def read_arguments(arguments: object) -> dict[str, Any] | None:
    """Read a call's arguments as an object; ``None`` if they are none.

    They may be an object, JSON text, JSON text within JSON text, or text in a code fence; blank text and ``null`` are
    an empty object. An object must be what JSON can hold: no lone surrogates, no integers beyond 64 bits.
    """
    if type(arguments) is str:
        try:
            value = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            value = None
        if type(value) is dict:
            return value
    for _ in range(_MAX_LAYERS):
        if isinstance(arguments, list) and len(arguments) == 1 and isinstance(arguments[0], dict | str):
            arguments = arguments[0]
        if arguments is None or arguments == "":
            return {}
        if isinstance(arguments, bytes):
            arguments = arguments.decode(errors="replace")
        if not isinstance(arguments, str):
            break
        text = unfence(arguments.strip(_WITHOUT_WIDTH))
        if not text:
            return {}
        try:
            arguments = _read_alone(text)
        except MalformedError:
            return None
    if not isinstance(arguments, dict):
        return None
    try:
        orjson.dumps(arguments)
    except TypeError:
        return None
    return arguments


def arguments_of(call: WrittenCall, name: str, tools: Tools) -> dict[str, Any] | None:
    """Read the arguments of a call of the tool ``name``, as :func:`read_arguments`, with the tool's schema where it is known.

    Entries beside the name are arguments if the tool has them; arguments within ``{"arguments": {…}}`` are taken out.
    """
    arguments = read_arguments(call.arguments)
    tool = tools.get(name)
    if not arguments or tool is None:
        return arguments
    properties = tool.parameters.get("properties")
    known = properties.keys() if isinstance(properties, dict) else frozenset()
    if isinstance(call.arguments, BesideName):
        return {key: value for key, value in arguments.items() if key in known}
    if known.isdisjoint(arguments) and arguments.get("name", name) == name:
        inner = next((arguments[key] for key in _ORDERED_KEYS if key in arguments), None)
        if inner is not None and arguments.keys() <= {"name", *ARGUMENT_KEYS}:
            return read_arguments(inner)
    return arguments


def _read_alone(text: str) -> object:
    """Parse ``text`` as one value; tokens and brackets behind it are ignored, and so is an empty object before it.

    Raises:
        MalformedError: The text is no value, or several.
    """
    try:
        return read_value(text)
    except MalformedError:
        value, end = scan_value(text, 0)
        if value == {} and text[end : end + 1] == "{":
            value, end = scan_value(text, end)
        if _BEHIND_VALUES.match(text, end) is None:
            raise MalformedError from None
        return value


def unfence(text: str) -> str:
    """Strip ``text`` and the code fence that encloses it."""
    text = text.strip()
    fence = _FENCE.match(text) if text.startswith("```") else None
    return text if fence is None else fence[1].strip()


# --- calls in JSON ------------------------------------------------------------------------------------------


def calls_in(value: object, layers: int = _MAX_LAYERS) -> Iterator[WrittenCall]:
    """Return the calls in a JSON value: an object with a name, an object that wraps one, or a list of them."""
    if type(value) is dict and "arguments" in value:
        # Nearly always.
        name = value.get("name")
        if type(name) is str and name != _PARALLEL:
            yield WrittenCall(name, value["arguments"], _id_of(value))
            return
    if isinstance(value, list):
        for each in value:
            yield from calls_in(each, layers - 1) if layers else [WrittenCall(None, each)]
        return
    if not isinstance(value, dict):
        yield WrittenCall(None, value)
        return
    inner = next((value[key] for key in _WRAPPER_KEYS if isinstance(value.get(key), dict | list)), None)
    if inner is not None and layers and not isinstance(value.get("name"), str):
        for call in calls_in(inner, layers - 1):
            yield call if call.id is not None else call._replace(id=_id_of(value))
        return
    arguments = next((value[key] for key in _ORDERED_KEYS if key in value), None)
    name = value.get("name")
    if name is None and arguments is not None:
        # Words that may mean anything, except beside arguments.
        name = next((value[key] for key in _OTHER_NAME_KEYS if isinstance(value.get(key), str)), None)
    elif arguments is None and isinstance(name, str):
        arguments = BesideName((key, each) for key, each in value.items() if key not in _NO_ARGUMENTS) or None
    if name == _PARALLEL and layers:
        yield from calls_in((read_arguments(arguments) or {}).get("tool_uses"), layers - 1)
        return
    yield WrittenCall(name, arguments, _id_of(value))


def is_call(value: object, tools: Tools) -> bool:
    """Return true if a JSON value has the shape of a call, or is a list of such: a name, and arguments or a tool of the name."""
    calls = list(calls_in(value)) if isinstance(value, dict | list) else []
    return bool(calls) and all(
        isinstance(call.name, str)
        and (
            not (call.arguments is None or isinstance(call.arguments, BesideName))
            or clean_name(call.name, tools) in tools
        )
        for call in calls
    )


def read_calls(text: str) -> list[WrittenCall]:
    """Return the calls in a text of JSON: one value, or several in a row, prose after them ignored.

    A malformed value becomes a call without a name.
    """
    return scan_calls(text)[0]


def scan_calls(text: str) -> tuple[list[WrittenCall], bool]:
    """Return the calls of :func:`read_calls`, and whether there is prose too."""
    text = unfence(text)
    try:
        return list(calls_in(read_value(text))) or [WrittenCall(None, text)], False
    except MalformedError:
        pass
    calls: list[WrittenCall] = []
    has_prose = False
    position = 0
    failures = 0
    while position < len(text) and len(calls) < MAX_CALLS:
        begin = position
        try:
            value, position = scan_value(text, position)
            if isinstance(value, dict | list) or not calls:
                calls += calls_in(value)
            else:
                has_prose = True
        except MalformedError:
            # The next line may hold a whole one again.
            failures += 1
            line = text.find("\n{", begin + 1) if failures < _MAX_LAYERS else -1
            position = len(text) if line == -1 else line + 1
            if not calls or text.startswith(("{", "["), begin):
                calls.append(WrittenCall(None, text[begin:position].strip()))
            else:
                has_prose = True
        position = _end_of_separators(text, position)
    return calls or [WrittenCall(None, text)], has_prose


def first_value(text: str) -> object:
    """Return the JSON value at the beginning of ``text``; the text itself if there is none."""
    try:
        return scan_value(text, 0)[0]
    except MalformedError:
        return text


def _end_of_separators(text: str, position: int) -> int:
    separators = _SEPARATORS.match(text, position)
    return position if separators is None else separators.end()


def _id_of(value: dict[str, Any]) -> object:
    for key in _ID_KEYS:
        if value.get(key) is not None:
            return value[key]
    return None


# --- values as bare text ------------------------------------------------------------------------------------


def read_texts(texts: Mapping[str, str], tool: Tool | None) -> dict[str, Any]:
    """Convert arguments written as bare texts to the types of the tool's JSON Schema."""
    schema = tool.parameters if tool is not None else {}
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    return {name: read_text_as(text, known.get(name), schema) for name, text in texts.items()}


def read_text_as(text: str, schema: object, root: object = None) -> Any:
    """Convert bare text to the type that ``schema`` requires; return the text itself if it is no such value.

    Of several types the narrowest that fits is used: null, boolean, integer, number, object or array, text. References
    are resolved in ``root``.
    """
    types = _types_of(schema, root, _MAX_LAYERS)
    # The line breaks after the opening and before the closing tag belong to the layout.
    text = text.removeprefix("\n").removesuffix("\n")
    bare = text.strip()
    if "null" in types and bare.casefold() in ("null", "none"):
        return None
    if "boolean" in types and bare.casefold() in ("true", "false"):
        return bare.casefold() == "true"
    if types & {"integer", "number"} and _INTEGER.fullmatch(bare):
        return int(bare.partition(".")[0])
    for wanted, kind in (("number", float), ("object", dict), ("array", list)):
        if wanted in types:
            try:
                value = read_value(bare)
            except MalformedError:
                continue
            if isinstance(value, kind):
                return value
    return text


def _types_of(schema: object, root: object, layers: int) -> set[str]:
    if not isinstance(schema, dict) or not layers:
        return set()
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        return _types_of(_referred(reference, root), root, layers - 1)
    declared = schema.get("type")
    types = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        types |= {one for one in declared if isinstance(one, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        if isinstance(options, list):
            types = types.union(*(_types_of(option, root, layers - 1) for option in options))
    if not types:
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            types = {_TYPE_OF[type(value)] for value in values if type(value) in _TYPE_OF}
    return types


def _referred(reference: str, root: object) -> object:
    for step in reference[2:].split("/"):
        root = root.get(step) if isinstance(root, dict) else None
    return root


_TYPE_OF: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    dict: "object",
    list: "array",
}
