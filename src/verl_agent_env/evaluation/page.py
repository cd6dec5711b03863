"""Page of an evaluation: the episode viewer of the web page with the episodes inside, as a single file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from importlib import resources
from posixpath import dirname, join, normpath
from typing import Any

import orjson

from verl_agent_env.evaluation.episodes import EvaluatedEpisode, EvaluationPlan
from verl_agent_env.evaluation.summary import Summary
from verl_agent_env.types import Message
from verl_agent_env.wire.model_notes import notes_of

_FIRST_SCRIPT = "app.js"
_IMPORT = re.compile(r"""(\bfrom\s*|\bimport\s*)(["'])(\.[\w./-]+\.js)\2""")
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""The file asks nobody for anything, whatever a model wrote into it."""


def write_page(plan: EvaluationPlan, episodes: Sequence[EvaluatedEpisode]) -> str:
    """Write the page as HTML."""
    title = f"{plan.model} plays {plan.env_name}"
    document = orjson.dumps(
        {
            "title": title,
            "figures": rows_of(Summary.of(episodes)),
            "episodes": [_shown(plan, episode) for episode in episodes],
        }
    )
    # Within a script no tag may begin.
    data = document.decode().replace("<", "\\u003c")
    style = (_web() / "style.css").read_text("utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{style}</style>\n"
        f'<script type="application/json" id="kept-episodes">{data}</script>\n'
        f'<script type="importmap">{orjson.dumps({"imports": _scripts()}).decode()}</script>\n'
        f'<body><script type="module">import "{_name_of(_FIRST_SCRIPT)}";</script></body></html>\n'
    )


def rows_of(summary: Summary) -> list[tuple[str, str]]:
    """Return names and values of the figures."""
    return [
        (
            "success",
            f"{100 * summary.success_rate:.1f} % of {summary.played} "
            f"(95 %: {100 * summary.success_low:.1f} to {100 * summary.success_high:.1f})",
        ),
        ("reward, mean", f"{summary.mean_reward:.3f}"),
        ("turns, mean", f"{summary.mean_turns:.1f}"),
        ("out of turns", str(summary.out_of_turns)),
        ("out of context", f"{summary.out_of_context} (the conversation became too long for the model)"),
        ("invalid actions", f"{100 * summary.invalid_share:.1f} % of turns"),
        ("answers cut off", f"{100 * summary.cut_off_share:.1f} % of turns"),
        ("tokens", f"{summary.prompt_tokens:,} read, {summary.completion_tokens:,} written"),
        (
            "not played",
            f"{summary.not_played} (conversations refused: {summary.refused}; the others: "
            "the server or the endpoint failed)",
        ),
    ]


def _shown(plan: EvaluationPlan, episode: EvaluatedEpisode) -> dict[str, Any]:
    """Return an episode in the form of a kept one."""
    first, *rest = _turns(episode.messages)
    return {
        "id": f"seed-{episode.seed}",
        "env_name": plan.env_name,
        "env_kwargs": plan.env_kwargs,
        "run_id": None,
        "group": "",
        "seed": episode.seed,
        "num_steps": episode.turns,
        "reward": episode.reward,
        "success": episode.outcome == "success",
        "ending": episode.outcome,
        "num_invalid": episode.invalid_actions,
        "complete": True,
        "tokens": episode.completion_tokens,
        "lost": episode.error or None,
        "observation": first,
        "steps": [
            {
                "seq": seq,
                "action": action,
                "observation": observation,
                "prompt_tokens": notes.prompt_tokens,
                "tokens": notes.completion_tokens,
            }
            for seq, (action, *observation) in enumerate(rest)
            for notes in [notes_of(action)]
        ],
    }


def _turns(messages: Iterable[Message]) -> list[list[Message]]:
    """Split a conversation before each message of the model."""
    turns: list[list[Message]] = [[]]
    for message in messages:
        if message.get("role") == "assistant":
            turns.append([])
        turns[-1].append(message)
    return turns


# --- the scripts of the web page, in one file -----------------------------------------------------------------


def _scripts() -> dict[str, str]:
    """Return the scripts as an import map: names to their texts as URLs, because a single file has no folder."""
    found: dict[str, str] = {}
    waiting = [_FIRST_SCRIPT]
    while waiting:
        path = waiting.pop()
        if _name_of(path) not in found:
            text = _web().joinpath(*path.split("/")).read_text("utf-8")
            folder = dirname(path)
            waiting += [normpath(join(folder, match[3])) for match in _IMPORT.finditer(text)]
            named = _IMPORT.sub(partial(_renamed, folder), text)
            encoded = base64.b64encode(named.encode()).decode()
            found[_name_of(path)] = f"data:text/javascript;charset=utf-8;base64,{encoded}"
    return found


def _renamed(folder: str, match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{_name_of(normpath(join(folder, match[3])))}{match[2]}"


def _name_of(path: str) -> str:
    return f"page:{path}"


def _web() -> Any:
    return resources.files("verl_agent_env") / "web"
