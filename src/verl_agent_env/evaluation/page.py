"""Web page of trajectories: a single file without external scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from verl_agent_env.evaluation.episodes import EvaluatedEpisode, EvaluationPlan
from verl_agent_env.evaluation.summary import Summary
from verl_agent_env.types import Message

NAMES = {
    "success": "success",
    "failure": "no success",
    "out_of_turns": "out of turns",
    "out_of_context": "out of context",
    "not_played": "not played",
}

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --good: #2a8f4d; --bad: #c2452f; --none: #888; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--none); } dd { margin: 0; }
nav { position: sticky; top: 0; background: Canvas; padding: .6rem 0; border-bottom: 1px solid var(--line); }
nav label { margin-right: 1rem; }
details { border-bottom: 1px solid var(--line); } summary { cursor: pointer; padding: .45rem 0; }
.mark { display: inline-block; min-width: 6.5rem; font-weight: 600; color: var(--bad); }
.success .mark { color: var(--good); } .not_played .mark { color: var(--none); }
article { margin: .4rem 0 .4rem 1rem; padding: .5rem .8rem; border-radius: .4rem; background: var(--soft); }
article.assistant { margin-left: 4rem; } article h2 { font-size: .75rem; margin: 0 0 .3rem; color: var(--none); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.35 ui-monospace, monospace; tab-size: 2; }
"""
_SCRIPT = """
document.querySelectorAll("nav input").forEach(box => box.onchange = () =>
  document.querySelectorAll("body > details." + box.value).forEach(one => one.hidden = !box.checked));
"""


def write_page(plan: EvaluationPlan, episodes: Sequence[EvaluatedEpisode]) -> str:
    """Write the page as HTML."""
    title = escape(f"{plan.model} plays {plan.env_name}")
    counts = Counter(episode.outcome for episode in episodes)
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{outcome}"> {NAMES[outcome]} ({count})</label>'
        for outcome, count in counts.items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>\n<h1>{title}</h1>\n{_figures(episodes)}\n"
        f"<nav>{boxes}</nav>\n{''.join(map(_episode, episodes))}<script>{_SCRIPT}</script></html>\n"
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


def _figures(episodes: Sequence[EvaluatedEpisode]) -> str:
    rows = rows_of(Summary.of(episodes))
    return (
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows) + "</dl>"
    )


def _episode(episode: EvaluatedEpisode) -> str:
    what = escape(
        episode.error
        or f"reward {episode.reward:g}, {episode.turns} turns, {episode.completion_tokens:,} tokens written"
    )
    return (
        f'<details class="{episode.outcome}"><summary><span class="mark">{NAMES[episode.outcome]}</span> '
        f"seed {episode.seed}: {what}</summary>{''.join(_messages(episode.messages))}</details>\n"
    )


def _messages(messages: Iterable[Message]) -> Iterable[str]:
    for message in messages:
        role = escape(str(message.get("role", "")), quote=True)
        yield (
            f'<article class="{role}"><h2>{role}</h2>{_reasoning(message)}{_content(message.get("content"))}'
            f"{_calls(message)}</article>"
        )


def _reasoning(message: Message) -> str:
    thought = message.get("reasoning_content")
    return f"<details><summary>reasoning</summary><pre>{escape(thought)}</pre></details>" if thought else ""


def _content(content: Any) -> str:
    if isinstance(content, str):
        return f"<pre>{escape(content)}</pre>" if content else ""
    parts = []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        image = part.get("image_url")
        url = str(image.get("url")) if isinstance(image, dict) else ""
        if url.startswith("data:image/"):
            parts.append(f'<img alt="" src="{escape(url, quote=True)}">')
        else:
            parts.append(f"<pre>{escape(str(part.get('text', '')))}</pre>")
    return "".join(parts)


def _calls(message: Message) -> str:
    calls = message.get("tool_calls")
    functions = (
        [
            call["function"]
            for call in calls
            if isinstance(call, dict) and isinstance(call.get("function"), dict)
        ]
        if isinstance(calls, list)
        else []
    )
    return "".join(
        f"<pre>→ {escape(str(function.get('name')))}({escape(str(function.get('arguments', '')))})</pre>"
        for function in functions
    )
