"""Let a small real model play the environments, and show what was read of what it really wrote.

    make eval-real                              # 16 episodes of each play, or what 20 minutes are enough for
    make eval-real ARGS="--episodes 4 --only frozen_lake-json"

Starts SmolLM2-135M (see ``local_model.py``) and a server of environments, and has ``verl-agent-env eval`` play: in text, and
in JSON that a schema holds (the model writes no tool calls). In ``out/eval-real`` each play has a folder with the page
``episodes.html``; ``readings.md`` shows how many answers were read, those that were not, and those that were;
``answers.jsonl`` has all of them. It ends in time: each play gets an equal part of what is left of ``--minutes``, and what it
has played by then is read. Started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium
import orjson
from rich.console import Console
from rich.table import Table

import verl_agent_env  # noqa: F401 - registers the environments
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.evaluation import AnswerFormat, EvaluatedEpisode, EvaluationPlan, Summary
from verl_agent_env.evaluation.page import write_page
from verl_agent_env.evaluation.run import PAGE_FILE, PLAN_FILE, open_folder
from verl_agent_env.messages import content_text

HERE = Path(__file__).parent
MODEL = "SmolLM2-135M-Instruct"
START_S = 120.0
MOST_THREADS = 2
CONCURRENCY = 4
"""Episodes at once: with more, all of them would be unfinished where the time is short."""
LONGEST_SHOWN = 240
MOST_SHOWN = 40
"""Answers of each kind on the page of a play."""


class Play(NamedTuple):
    """One environment to play, and the form in which the model is asked to answer."""

    name: str
    env_name: str
    env_kwargs: dict[str, Any]
    answer_format: AnswerFormat


class Reading(NamedTuple):
    """One answer, and what an environment read of it."""

    play: str
    seed: int
    """Of the first episode in which it was given."""
    answer: str
    times: int
    form: str
    """What it was read as, see :class:`verl_agent_env.messages.ParsedAction`."""
    action: str
    fault: str
    """Why it is no action; empty if it is one."""


def asked(question: str, scorer: dict[str, Any]) -> dict[str, Any]:
    """A conversation of one question."""
    return {"task_prompt": question, "scorer": scorer}


def in_words(env_kwargs: dict[str, Any], task_prompt: str) -> dict[str, Any]:
    """The same environment, described for a model that is offered no tools."""
    return {**env_kwargs, "task_prompt": task_prompt}


_LAKE: dict[str, Any] = {"size": 4, "max_steps": 4}
_ROOM: dict[str, Any] = {"dim_room": [6, 6], "num_boxes": 1, "max_steps": 4}
_NUMBERS: dict[str, Any] = {"num_numbers": 3, "target_range": [1, 50], "max_attempts": 2, "max_steps": 3}
_MOVE = "Which way do you go: up, down, left or right? Answer in tags, such as <action>right</action>."
_EQUATION = "Answer in tags, such as <answer>(1 + 2) * 3</answer>."
_CAPITAL = asked(
    "What is the capital of France? Write your answer as <answer>city</answer>.",
    {"type": "exact_match", "answer": "Paris"},
)
_SUM = asked(
    "A farmer has 17 sheep and buys 25 more. How many sheep does he have? End with the number in \\boxed{}.",
    {"type": "numeric", "answer": 42},
)
_LAKE_NAME, _ROOM_NAME, _NUMBERS_NAME, _CHAT_NAME = (
    "verl_env/frozen_lake-v1",
    "verl_env/sokoban-v0",
    "verl_env/countdown-v0",
    "verl_env/single_turn_chat-v0",
)
PLAYS = (
    Play(
        "frozen_lake-text",
        _LAKE_NAME,
        in_words(
            _LAKE,
            f"You are P on a frozen lake. Walk over the ice F to the goal G, not into a hole H. {_MOVE}",
        ),
        "text",
    ),
    Play("frozen_lake-json", _LAKE_NAME, _LAKE, "json"),
    Play(
        "sokoban-text",
        _ROOM_NAME,
        in_words(_ROOM, f"You are P in a room with walls #. Push the box X onto the target O. {_MOVE}"),
        "text",
    ),
    Play("sokoban-json", _ROOM_NAME, _ROOM, "json"),
    Play(
        "countdown-text",
        _NUMBERS_NAME,
        in_words(
            _NUMBERS,
            f"Write an equation that uses each of the numbers once and equals the target. {_EQUATION}",
        ),
        "text",
    ),
    Play("countdown-json", _NUMBERS_NAME, _NUMBERS, "json"),
    Play("chat-tag", _CHAT_NAME, _CAPITAL, "text"),
    Play("chat-box", _CHAT_NAME, _SUM, "text"),
)


def main() -> None:
    """Play, write what was read, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=16, help="of each play (default: 16)")
    parser.add_argument("--out", type=Path, default=Path("out/eval-real"))
    parser.add_argument("--minutes", type=float, default=20.0, help="for all plays together (default: 20)")
    parser.add_argument(
        "--threads",
        type=int,
        default=free_cores(),
        help=f"of the model (default: as many as cores are idle, {MOST_THREADS} at most)",
    )
    parser.add_argument(
        "--only", choices=[play.name for play in PLAYS], action="append", help="one of the plays"
    )
    options = parser.parse_args()
    plays = [play for play in PLAYS if not options.only or play.name in options.only]
    options.out.mkdir(parents=True, exist_ok=True)
    model_server = [sys.executable, str(HERE / "local_model.py"), "--port", "0"]
    model_server += ["--threads", str(options.threads)]
    env_server = [sys.executable, "-m", "verl_agent_env.cli", "serve", "--port", "0"]
    with (
        serving(model_server, options.out / "model.log") as model_url,
        serving(env_server, options.out / "server.log") as server_url,
    ):
        end = time.monotonic() + 60 * options.minutes
        for number, play in enumerate(plays, start=1):
            share_s = max(0.0, end - time.monotonic()) / (len(plays) - number + 1)
            print(f"{number} of {len(plays)}: {play.name}, {share_s:.0f} s at most", flush=True)
            evaluate(play, options.episodes, f"{model_url}/v1", server_url, options.out / play.name, share_s)
    write_readings(plays, options.episodes, options.out)


def free_cores() -> int:
    """Return how many threads the model should have: on cores that others use, more threads wait for each other."""
    return max(1, min(MOST_THREADS, round((os.cpu_count() or 1) - os.getloadavg()[0])))


def write_readings(plays: Sequence[Play], wanted: int, out: Path) -> None:
    """Read what the evaluations kept; write the pages and print the figures."""
    episodes = {play.name: read_episodes(out / play.name) for play in plays}
    readings = {play.name: read_answers(play, episodes[play.name]) for play in plays}
    (out / "answers.jsonl").write_bytes(
        b"".join(orjson.dumps(reading._asdict()) + b"\n" for read in readings.values() for reading in read)
    )
    (out / "readings.md").write_text(page_of(readings), "utf-8")
    Console().print(figures(episodes, readings))
    unfinished = [name for name, played in episodes.items() if len(played) < wanted]
    if unfinished:
        print(f"Time was over for {', '.join(unfinished)}: start again to go on, or give more --minutes.")
    print(f"To read: {out}/readings.md, and the conversations in {out}/*/episodes.html")


@contextlib.contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[str]:
    """Run a server whose output goes to ``log``; yields the address that it names there."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + START_S
            while (
                found := re.search(r"http://[\d.]+:\d+(?=[/\s])", log.read_text("utf-8", "replace"))
            ) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"'{' '.join(command)}' did not start, see {log}")
                time.sleep(0.1)
            yield found.group()
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def evaluate(play: Play, episodes: int, model_url: str, server_url: str, out: Path, share_s: float) -> None:
    """Have ``verl-agent-env eval`` play, or go on, for this long; finished episodes are kept."""
    options = {
        "--url": server_url,
        "--base-url": model_url,
        "--model": MODEL,
        "--env": play.env_name,
        "--env-kwargs": orjson.dumps(play.env_kwargs).decode(),
        "--episodes": str(episodes),
        "--concurrency": str(CONCURRENCY),
        "--answer-format": play.answer_format,
        "--max-tokens": "48",
        "--temperature": "0.7",
        "--out": str(out),
    }
    command = [sys.executable, "-m", "verl_agent_env.cli", "eval"]
    command += [f"{name}={value}" for name, value in options.items()]
    with subprocess.Popen(command) as process:
        try:
            status = process.wait(timeout=share_s)
        except subprocess.TimeoutExpired:
            # Not as Ctrl-C does, which a process in the background ignores. The server ends after it, with its environments.
            process.terminate()
            process.wait()
            return
    if status:
        sys.exit(f"{play.name} was not played to its end; start again to go on.")


def read_episodes(folder: Path) -> list[EvaluatedEpisode]:
    """Return what an evaluation kept, and write its page, which an evaluation that ran out of time did not."""
    file = folder / PLAN_FILE
    if not file.exists():
        return []
    plan = EvaluationPlan.from_json(file.read_bytes())
    episodes = list(open_folder(plan, folder).values())
    (folder / PAGE_FILE).write_text(write_page(plan, episodes), "utf-8")
    return episodes


def read_answers(play: Play, episodes: Sequence[EvaluatedEpisode]) -> list[Reading]:
    """Read each answer once, as the first action of its episode; those that were given most often come first."""
    seeds: dict[str, int] = {}
    times: Counter[str] = Counter()
    for episode in episodes:
        for message in episode.messages:
            if message["role"] == "assistant":
                answer = content_text(message["content"])
                seeds.setdefault(answer, episode.seed)
                times[answer] += 1
    env = cast(ChatEnv, gymnasium.make(play.env_name, **play.env_kwargs).unwrapped)
    return [
        read_answer(play.name, env, answer, seeds[answer], count) for answer, count in times.most_common()
    ]


def read_answer(play: str, env: ChatEnv, answer: str, seed: int, times: int) -> Reading:
    """Say what an environment makes of one answer."""
    env.reset(seed=seed)
    read = env.read_action(answer)
    action = ", ".join(f"{call.name}({call.arguments})" for call in read.calls) or " || ".join(read.words)
    observation, _, _, _, info = env.step(answer)
    fault = (
        ""
        if info["action_is_valid"]
        else content_text(observation[-1]["content"]).partition(" Available:")[0]
    )
    if not env.tools and not read.is_marked:
        # Any text is an answer there; these questions ask for a marked one.
        fault = "No answer is marked."
    return Reading(play, seed, answer, times, read.form, action, fault)


def share_read(readings: Sequence[Reading]) -> float:
    """Return which share of all turns was read, each answer as often as it was given."""
    total = sum(reading.times for reading in readings)
    return sum(reading.times for reading in readings if not reading.fault) / total if total else 0.0


def page_of(readings: dict[str, list[Reading]]) -> str:
    """Write, for each play, what was not read and what was, as Markdown."""
    lines = [f"# What was read of {MODEL}", ""]
    for name, read in readings.items():
        lines += [f"## {name}: {100 * share_read(read):.0f} % of turns read", ""]
        for title, chosen in (
            ("Not read", [reading for reading in read if reading.fault]),
            ("Read", [reading for reading in read if not reading.fault]),
        ):
            lines += [f"{title}: {len(chosen)} different answers", ""]
            if chosen:
                lines += ["| times | the model wrote | read as | action |", "|---|---|---|---|"]
            lines += [
                f"| {reading.times} | {cell(reading.answer)} | {reading.form} | {cell(reading.fault or reading.action)} |"
                for reading in chosen[:MOST_SHOWN]
            ]
            lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """``text`` as code in a table of Markdown."""
    shown = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    shown = shown.replace("`", "ˋ").replace("|", "\\|").replace("\n", " ⏎ ").strip()
    return f"`{shown}`" if shown else ""


def figures(episodes: dict[str, list[EvaluatedEpisode]], readings: dict[str, list[Reading]]) -> Table:
    """Return the table of all plays."""
    table = Table("play", "turns read", "invalid actions", "success", "mean reward", "cut off", title=MODEL)
    table.columns[0].no_wrap = True
    for name, played in episodes.items():
        summary = Summary.of(played)
        table.add_row(
            name,
            f"{100 * share_read(readings[name]):.0f} %",
            f"{100 * summary.invalid_share:.0f} %",
            f"{summary.successes} of {summary.played}",
            f"{summary.mean_reward:.2f}",
            f"{100 * summary.cut_off_share:.0f} %",
        )
    return table


if __name__ == "__main__":
    main()
