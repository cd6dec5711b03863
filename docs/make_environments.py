"""Makes ``docs/environments.md``, its pictures, the catalogue's pages and the table of the chart's values.

``make docs`` runs it; a test fails when the files in the repository differ from what it would write.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from docs import catalogue_pages, chart_values
from docs.markdown import cell, markdown
from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.countdown.scoring import PROFILES, VerdictKind
from verl_agent_env.envs.grid import GridArguments
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import BUILT_IN, default_registry
from verl_agent_env.messages import FORMATS, content_text

HERE = Path(__file__).parent

SHOWN_ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "sokoban": {"dim_room": [7, 7], "num_boxes": 2, "tile_px": 32},
    "frozen_lake": {"size": 5, "tile_px": 32},
    "single_turn_chat": {
        "task_prompt": "What is 6 times 7?",
        "scorer": {"type": "numeric", "answer": 42},
    },
}
"""Of the episode that stands for an environment, where the defaults would show too much or nothing; its seed is 1."""

_INTRODUCTION = """\
# Environments

This page is made from the code by `make docs`; please change the docstrings, not this file.

An environment is made by its name. The short name does as well: `sokoban` stands for `verl_env/sokoban-v0`.
`verl-agent-env list` shows all names, those of installed packages included, `verl-agent-env envs` also those of the
[catalogue](#catalogue), and `verl-agent-env play sokoban` lets you
play one. A preset is a name of its own with other defaults; every argument can still be given.

An argument that is unknown or out of its range is refused before anything is built: over HTTP as 422
`invalid_env_arguments`, in Python as `InvalidEnvArgumentsError`. Equal name, arguments and seed give equal episodes, in
every process.

{contents}

## How an action is written

All environments read the same, whichever way an action comes: over HTTP, in process, by the client, in MCP, in an
evaluation, in verl's agent loop. First the form of what is sent:

| Form | Example |
|---|---|
| OpenAI's assistant message with `tool_calls` | `{{"role": "assistant", "tool_calls": [{{"id": "call_1", "type": "function", "function": {{"name": "push_up", "arguments": "{{}}"}}}}]}}` |
| its predecessor, with `function_call` | `{{"role": "assistant", "function_call": {{"name": "push_up", "arguments": "{{}}"}}}}` |
| items of OpenAI's Responses | `[{{"type": "function_call", "call_id": "call_1", "name": "push_up", "arguments": "{{}}"}}]` |
| Anthropic's message with `tool_use` blocks | `{{"role": "assistant", "content": [{{"type": "tool_use", "id": "t1", "name": "push_up", "input": {{}}}}]}}` |
| Gemini's content with `functionCall` parts | `{{"role": "model", "parts": [{{"functionCall": {{"name": "push_up", "args": {{}}}}}}]}}` |
| a whole answer of such an API | `{{"choices": [{{"message": {{"role": "assistant", "content": "up"}}}}]}}`; of several choices the first that calls a tool, else the first that says something |
| a list that holds such messages | `[{{"role": "assistant", "content": "up"}}]` |
| an object of an SDK | anything with `model_dump`, as the dictionary that it gives |
| text | `up`, or a message with such a `content` |

Then, where no tool is called, the text: without its thoughts, up to the token that ends the model's turn
(`<|im_end|>`, `</s>`, `<|eot_id|>`, `<|endoftext|>` and others). A thought stands in `<think>`, `<thinking>`,
`<reasoning>`, `<thought>`, `<reflection>`, `[THINK]`, `◁think▷`, `<seed:think>` or the like, also with attributes, in an
element that says so (`<details type="reasoning">`, `<div class="thinking">`, `<details>` whose summary is "Thinking" or "Thought
for 3 seconds"), between "Here is my thought process:" and "Here is my response:", or on harmony's channel `analysis`; it is
never an action. A thought that is not closed
reaches to the end. A closing tag without an opening one closes a thought that the prompt opened: all before it is thought. Such
a mark in a value of a tool call belongs to the value. A result of a tool that the model made up (`<tool_response>` on a line of
its own) ends its turn as well.

The formats of text, in the order in which they are looked for; the first that a text holds is read, and nothing else.
The examples call a tool `go` with the argument `to`, or say the word `up`:

| `action_format` | Written by | Examples |
|---|---|---|
{formats}

- The argument `action_format` chooses one of these names, or a list of them; `auto` stands for all. The order is always
  this one. JSON alone, a name above JSON, calls of Python and words come last, also those of `llama`, `glm` and `react`.
- In plain text a sentence that says what the answer is stands for the move that it names, if it names nothing else:
  "The answer is up."
- Tags are of any case, with attributes and blanks. Of several opening tags before a closing one the last counts; a tag in
  code ticks is none. Of several marked answers the last one counts that is not empty. The end of the text closes a tag, also
  one whose closing tag is cut off (`up</answ`).
- Within a mark an action may be wrapped again: `<answer>\\boxed{{\\text{{up}}}}</answer>`, `**up**`, quotes, code ticks,
  `$…$`. `||` parts several moves.
- Names are freed of blanks, of `functions.` and of tokens that ran into them; if only one tool can be meant, `game.up`, `up:0`,
  `to=up` and `Up` name `up`. Arguments may be JSON within JSON, in a code fence, with a trailing comma, in single quotes, with
  comments, keys without quotes, tokens behind them; blank ones are `{{}}`. Entries beside the name are arguments if there are no
  others. Values that are written as bare text
  (`qwen3_coder`, `glm`, `minimax` and the like) get the type that the tool's JSON Schema wants. What is cut off is not
  made up.
- Tags of `hermes` and others are also read in other spellings (`<TOOL_CALL>`, `<tool-call id="1">`, `<functioncall>`), if the
  text holds nothing else.
- A malformed call beside a good one is told to the model.

An action that cannot be read is no error: the model is told what was wrong, and the
reward is that of a turn in which nothing was done, plus `invalid_action_reward`.

Each call of a structured message is answered by a message of the role `tool` that carries its `tool_call_id`, text by
one message of the role `user`. A call whose id is missing, no text, or another call's gets the id
`call_<moves so far>_<number>`; `verl_agent_env.messages.assistant_message` gives the message with ids beforehand, so that
the conversation holds them too, and `sendable` makes it one that OpenAI's API and vLLM take back. The info of a step holds `num_steps`, `action_is_valid`, `action_is_effective` and
`success`, that of a reset the episode's `seed`. It never holds the solution.

## Seats

An environment may have several seats, as [connect_four](#connect_four) and all games of OpenSpiel for several players
do with `opponent="self"`, and those of TextArena always: each is a player of the same episode, and sees what its own seat may see. The contract, which `check-env` checks (`seats`):

| | |
|---|---|
| whose turn it is | `turn` in the info of each reset and step: the seats that are to act, from 0; none after the end. Each observation says it, too |
| an action | `{{"seat": 1, "action": …}}` acts for that seat, with any form of an action within. Without a seat it acts for the first seat in turn |
| the observation of a step | with a seat: what that seat sees, never more. Without: the answer to the call of the seat that acted, then what the seat in turn sees |
| rewards | `reward` is that of the seat that acted; `rewards` in the info has those of all seats, `successes` whether each succeeded, `seat` who acted. With [`reward_parts`](#rewards-in-parts) the parts are those of the seat that acted; what its move is worth to another seat is that seat's `task`, and has its weight |
| a look | `GET /api/environment/{{env_id}}/seat?seat=1` shows what a seat sees, whose turn it is, what it got, and the number of the next step (`seq`); with the task prompt until the seat has acted. It changes nothing |
| waiting | `wait_s=20` answers as soon as the seat is to act or the episode has ended. It takes no thread; ask again when the time is over |
| an action out of turn | 409 `not_your_turn`, an unknown seat 422 `unknown_seat`: nothing is changed, no `seq` is used |
| an invalid move | the seat stays in turn, and `invalid_action_reward` is its own |
| moves at the same time (`open_spiel/goofspiel`) | several seats are in turn. Each acts in a step of its own, in any order, and is then out of turn; what they did counts, and is shown, when the last one has acted |
| a worker's death | whose turn it is, and what was done at the same time, is part of the state, like everything |

One client plays all seats with ordinary steps: an environment with seats is still Gymnasium's for one agent. Two clients play each
other with an object each:

```text
env = await client.attach(env_id)
while not (view := await env.wait_for_turn(seat))["ended"]:
    await env.step({{"seat": seat, "action": await model(view["observation"])}})
```

Seats are no accounts: whoever may use the environment may act for all of them. An environment of one's own with seats is a subclass
of `verl_agent_env.envs.seats.SeatedEnv`.

## A model as the user

Dialogues with tools ([python_tool](#python_tool), [mcp_chat](#mcp_chat)) take `user`: a model of the operator's that plays the user,
with a goal, and a persona if you like, of which the assistant learns only by the conversation. `mcp_chat` with `"servers": []` is
a conversation without tools.

```json
{{
  "user": {{
    "endpoint": "user",
    "goal": "You need the sum of the primes below 100. You know that it is more than 1000.",
    "persona": "In a hurry; answers questions with one word."
  }},
  "scorer": {{"type": "numeric", "answer": 1060}}
}}
```

| | |
|---|---|
| the endpoint | an entry of the operator's file ([scorers.md](scorers.md#a-model-as-a-judge)): any that speaks OpenAI's chat completions |
| the first message | the user's, or the `task_prompt` in its place |
| a message without a call | said to the user, without its thoughts. The next observation is the user's answer |
| a message without words | is not said: an invalid action |
| the end | the user ends the conversation; the last message of the assistant is then scored as the answer. A `judge` sees the whole conversation |
| `max_steps` | counts calls and messages. An episode that reaches it is truncated without a score |
| a user who fails | 503 `endpoint_unavailable`, or 402 `endpoint_budget_spent`: the step is not taken and may be sent again. With a `judge` both deadlines together must be below `--max-step-s` |
| a worker's death | what the user said is written with the step: whoever goes on with the episode reads it, and asks nobody |

What can be tried against it stands in [security.md](security.md#simulated-users).

## Arguments of all environments

{shared}

### Rewards in parts

With the argument `reward_parts` the info of each step holds `reward_parts`: the parts of the reward by name, whose sum is the
reward (exactly, added in their order). An environment without parts of its own has the part `task`; an action that cannot be
carried out adds `invalid_action` (`invalid_action_reward`). Three more parts look at how the action was written, thoughts and
calls included, and at nothing else of the episode:

```json
{{
  "reward_parts": {{
    "weights": {{"task": 1.0, "length": 0.5}},
    "format": {{"pattern": "<think>.+</think>\\s*<answer>[^<]+</answer>", "reward": 0.1}},
    "length": {{"free_chars": 2000, "max_chars": 4000, "penalty": -1.0}},
    "repetition": {{"words": 4, "penalty": -0.5}}
  }}
}}
```

`success` is what it is without weights. A weight of a part that does not exist is refused. The scorers `judge` and `weighted`
have parts of their own ([scorers.md](scorers.md)). An environment of one's own gives parts as `Outcome(parts=…)` and names
them in `reward_part_names`.

{reward_parts}

### Arguments of grid worlds

Sokoban and FrozenLake take these as well. They can be drawn as `ansi`, `svg` and `rgb_array` (over HTTP `png`); the
others only as `ansi`.

{grid}
"""


def page() -> str:
    """The text of ``docs/environments.md``."""
    kinds = base_kinds()
    introduction = _INTRODUCTION.format(
        contents="\n".join(
            [
                *(f"- [{kind.name}](#{short_name(kind.name)}): {kind.description}" for kind in kinds),
                f"- [Catalogue](#catalogue): {', '.join(family.title for family in FAMILIES)}, and any text environment of "
                "Gymnasium.",
            ]
        ),
        formats="\n".join(
            f"| `{each.name}` | {each.writers} | {'; '.join(map(_code, each.examples))} |" for each in FORMATS
        ),
        shared=_arguments_table(EnvArguments.model_json_schema(), {}),
        reward_parts="\n\n".join(_models(EnvArguments.model_json_schema(), {})),
        grid=_arguments_table(GridArguments.model_json_schema(), EnvArguments.model_json_schema()),
    )
    return "\n".join([introduction, *(_section(kind) for kind in kinds), catalogue_pages.overview()])


def pictures() -> dict[str, str]:
    """The pictures of the environments that can be drawn: file name to SVG."""
    drawn = {}
    for kind in base_kinds():
        if "svg" in kind.env_class.metadata["render_modes"]:
            env = _shown_episode(kind)
            drawn[f"{short_name(kind.name)}.svg"] = f"{env.draw('svg')}\n"
    return drawn


def base_kinds() -> list[EnvKind]:
    """The built-in environments themselves, without the presets."""
    return [default_registry().kind(spec.name) for spec in BUILT_IN if not spec.presets]


def short_name(name: str) -> str:
    """``sokoban`` of ``verl_env/sokoban-v0``."""
    return re.sub(r"-v\d+$", "", name.rpartition("/")[2])


def main() -> None:
    """Write the pages and the pictures."""
    (HERE / "environments.md").write_text(page(), encoding="utf-8")
    catalogue_pages.write()
    chart_values.write()
    (HERE / "images").mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (HERE / "images" / name).write_text(svg, encoding="utf-8")


# --- one environment ----------------------------------------------------------------------------------------


def _section(kind: EnvKind) -> str:
    env = _shown_episode(kind)
    short = short_name(kind.name)
    given = SHOWN_ARGUMENTS.get(short, {})
    arguments = ", ".join(
        f"`{name}={json.dumps(value)}`" for name, value in given.items() if name != "tile_px"
    )
    shown = "\n\n".join(content_text(message["content"]) for message in env.first_observation())
    sections = [
        f"## {short}",
        f"`{kind.name}` · runs {_EXECUTION_WORDS[kind.execution]} · drawn as "
        + ", ".join(f"`{mode}`" for mode in kind.env_class.metadata["render_modes"]),
        *([f"![An episode of {short}](images/{short}.svg)"] if f"{short}.svg" in pictures() else []),
        _docstring(kind),
        _all_arguments(kind),
        *([f"### Tools\n\n{_tools_table(env)}"] if env.tools else []),
        *([_score_profiles()] if short == "countdown" else []),
        f"### First observation\n\nWith seed 1{f' and {arguments}' if arguments else ''}:\n\n```text\n{shown}\n```",
        *_presets(kind),
    ]
    return "\n\n".join(sections) + "\n"


_EXECUTION_WORDS = {
    "inline": "inline",
    "compute": "in one of a few threads",
    "thread": "in a thread",
    "async": "as a coroutine",
}


def _shown_episode(kind: EnvKind) -> ChatEnv:
    env = cast("ChatEnv", kind.build(kind.validate(SHOWN_ARGUMENTS.get(short_name(kind.name), {}))))
    env.reset(seed=1)
    return env


def _docstring(kind: EnvKind) -> str:
    """The class's docstring as Markdown, one level deeper, without its pointer to the arguments."""
    text = markdown(inspect.getdoc(kind.env_class) or "")
    text = re.sub(r"^## Arguments\n+See .*\n?", "", text, flags=re.MULTILINE).strip()
    return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)


def _all_arguments(kind: EnvKind) -> str:
    schema = cast("type[ChatEnv]", kind.env_class).Arguments.model_json_schema()
    is_grid = issubclass(cast("type[ChatEnv]", kind.env_class).Arguments, GridArguments)
    shared = (GridArguments if is_grid else EnvArguments).model_json_schema()
    above = (
        "the arguments of all environments and of grid worlds"
        if is_grid
        else "the arguments of all environments"
    )
    parts = [f"### Arguments\n\nBesides {above}:\n\n{_arguments_table(schema, shared)}"]
    return "\n\n".join([*parts, *_models(schema, shared)])


def _models(schema: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    """A section for each model that ``schema`` refers to and ``shared`` does not."""
    for name, model in schema.get("$defs", {}).items():
        if model.get("properties") and name not in shared.get("$defs", {}):
            description = cell(model.get("description", "").partition("\n\n")[0])
            yield f"#### {name}\n\n{description}\n\n{_arguments_table(model, {})}"


def _tools_table(env: ChatEnv) -> str:
    rows = []
    for tool in env.tools:
        required = tool.parameters.get("required", [])
        parameters = [
            f"`{name}`{'' if name in required else ' (optional)'}: {schema.get('description', '')}"
            for name, schema in tool.parameters["properties"].items()
        ]
        rows.append(f"| `{tool.name}` | {cell('; '.join(parameters)) or '–'} | {cell(tool.description)} |")
    return "\n".join(["| Tool | Arguments | What it does |", "|---|---|---|", *rows])


def _score_profiles() -> str:
    """What Countdown's named profiles pay."""
    kinds = get_args(VerdictKind)
    rows = [
        f"| `{name}` | "
        + " | ".join(f"{getattr(profile, kind):g}" for kind in kinds)
        + f" | {'all' if profile.use_all else 'some'} | `{profile.grammar.notation}` | {profile.source or '–'} |"
        for name, profile in PROFILES.items()
    ]
    columns = " | ".join(f"`{kind}`" for kind in kinds)
    head = f"| Profile | {columns} | Numbers to use | Notation | Source |\n|---|{'---|' * len(kinds)}---|---|---|"
    return "\n".join(["### Score profiles\n", head, *rows])


def _presets(kind: EnvKind) -> Iterator[str]:
    rows = []
    for spec in BUILT_IN:
        if spec.presets and default_registry().kind(spec.name).env_class is kind.env_class:
            values = (
                (
                    f"`{name}`: its own"
                    if name == "task_prompt"
                    else f"`{name}={cell(json.dumps(value, ensure_ascii=False))}`"
                )
                for name, value in spec.presets.items()
            )
            rows.append(f"| `{spec.name}` | {', '.join(values)} | {spec.source or '–'} |")
    if rows:
        yield "\n".join(["### Presets\n", "| Name | What differs | Source |", "|---|---|---|", *rows])


# --- arguments, from their JSON Schema ----------------------------------------------------------------------


def _arguments_table(schema: dict[str, Any], shared: Mapping[str, Any]) -> str:
    """The properties of ``schema`` that ``shared`` does not have in the same form."""
    known = shared.get("properties", {})
    rows = [
        f"| `{name}` | {_type(declared)} | {_default(name, declared, schema)} | {_meaning(declared, schema)} |"
        for name, declared in schema["properties"].items()
        if declared != known.get(name)
    ]
    return "\n".join(["| Argument | Type | Default | Meaning |", "|---|---|---|---|", *rows])


def _code(text: str) -> str:
    """A text as code in the cell of a table, each line for itself."""
    lines = (line.replace("|", "\\|") for line in text.split("\n"))
    return "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in lines)


def _meaning(declared: Mapping[str, Any], schema: dict[str, Any]) -> str:
    referred = schema.get("$defs", {}).get(declared.get("$ref", "").rpartition("/")[2], {})
    return cell(str(declared.get("description") or referred.get("description", "")))


def _default(name: str, declared: dict[str, Any], schema: dict[str, Any]) -> str:
    if "default" not in declared:
        return "required" if name in schema.get("required", ()) else "–"
    value = declared["default"]
    if value is None:
        return "–"
    if isinstance(value, float) and value != round(value, 6):
        return f"`{value:.4g}`"
    return "see below" if "$ref" in declared else f"`{cell(json.dumps(value, ensure_ascii=False))}`"


def _type(declared: Mapping[str, Any]) -> str:
    """A schema in words: its type and its bounds."""
    for union in ("anyOf", "oneOf"):
        if union in declared:
            options = [_type(option) for option in declared[union] if option.get("type") != "null"]
            return " or ".join(dict.fromkeys(options))
    if "$ref" in declared:
        name = declared["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.casefold()})"
    if "const" in declared:
        return f"`{json.dumps(declared['const'])}`"
    if "enum" in declared:
        return ", ".join(f"`{json.dumps(value)}`" for value in declared["enum"])
    kind = declared.get("type", "any JSON")
    if kind == "array":
        return _array(declared)
    return f"{_TYPE_WORDS.get(kind, kind)}{_bounds(declared)}"


_TYPE_WORDS = {"string": "text", "boolean": "true or false"}


def _array(declared: Mapping[str, Any]) -> str:
    if "prefixItems" in declared:
        items = [_type(item) for item in declared["prefixItems"]]
        return f"{len(items)} × {items[0]}" if len(set(items)) == 1 else f"[{', '.join(items)}]"
    least, most = declared.get("minItems"), declared.get("maxItems")
    count = f" ({_range(least, most, 'items')})" if least is not None or most is not None else ""
    return f"list of {_type(declared.get('items', {}))}{count}"


def _bounds(declared: Mapping[str, Any]) -> str:
    least, most = declared.get("minimum"), declared.get("maximum")
    if "exclusiveMinimum" in declared:
        least = f"above {declared['exclusiveMinimum']:g}"
    if "pattern" in declared:
        return f" like `{cell(declared['pattern'])}`"
    if declared.get("type") == "string":
        least, most = declared.get("minLength"), declared.get("maxLength")
        return f" ({_range(least, most, 'characters')})" if most is not None else ""
    return f" ({_range(least, most, '')})" if least is not None or most is not None else ""


def _range(least: Any, most: Any, unit: str) -> str:
    low, high = (f"{bound:,}" if isinstance(bound, int) else _plain(bound) for bound in (least, most))
    if least is None:
        text = f"at most {high}"
    elif most is None:
        text = low if isinstance(least, str) else f"at least {low}"
    else:
        text = f"{low} to {high}"
    return f"{text} {unit}".rstrip()


def _plain(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


if __name__ == "__main__":
    main()
