"""What the load tests can be told, beside locust's own options."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.users.episodes import Mix

DEFAULT_OUT = "out/loadtest"


@dataclass(frozen=True)
class Stage:
    """A part of a climb."""

    episodes: int
    hold_s: float
    """How long so many are kept, from when all have begun."""


def add_options(parser: ArgumentParser) -> None:
    """Add them to locust's; each is in the form of the web page too."""
    group = parser.add_argument_group("Environments")
    group.add_argument("--mix", default="frozen_lake=1,sokoban=1,countdown=1", type=_checked_by(Mix.parse), help="Kinds of episodes and their weights (default: %(default)s)")  # fmt: skip
    group.add_argument("--batch-size", type=_positive, default=10_000, help="BatchUser: environments in one call (default: %(default)s)")  # fmt: skip
    group.add_argument("--rounds", type=int, default=0, help="BatchUser: times that the batch is played; 0 goes on until stopped (default: %(default)s)")  # fmt: skip
    group.add_argument("--episodes-per-user", type=_positive, default=512, help="RolloutUser: episodes played at once (default: %(default)s)")  # fmt: skip
    group.add_argument("--think-s", type=float, default=1.0, help="Mean seconds from an observation to its action (default: %(default)s)")  # fmt: skip
    group.add_argument("--think-spread", type=float, default=0.5, help="Think time varies by this share of it, up and down (default: %(default)s)")  # fmt: skip
    group.add_argument("--gather-s", type=float, default=0.1, help="RolloutUser: seconds between two batches at least, in which actions gather (default: %(default)s)")  # fmt: skip
    group.add_argument("--stages", default="10000:30,16384:60", type=_checked_by(parse_stages), help="With climb.py: concurrent episodes and seconds to hold each (default: %(default)s)")  # fmt: skip
    group.add_argument("--ramp-s", type=float, default=20.0, help="With climb.py: seconds to climb to a stage (default: %(default)s)")  # fmt: skip
    group.add_argument("--watch", default="", type=_checked_by(parse_watch), help="With climb.py: processes whose CPU is shown for each stage, as NAME=PID+PID,NAME=PID; their descendants count, too")  # fmt: skip
    group.add_argument("--max-p99-ms", type=float, default=0.0, help="A slower p99 of the steps, of the whole test or of a stage, is a failed test; 0 asks for none (default: %(default)s)")  # fmt: skip
    group.add_argument("--max-error-ratio", type=float, default=0.0, help="A greater share of errors is a failed test (default: %(default)s)")  # fmt: skip
    group.add_argument("--auth-token", default="", help="Bearer token, if the server asks for one")
    group.add_argument("--out", default=DEFAULT_OUT, help="Folder of summary.json and timeline.json (default: %(default)s)")  # fmt: skip


def mix_of(options: Namespace) -> Mix:
    """The kinds of episodes."""
    return Mix.parse(options.mix)


def out_of(options: Namespace) -> Path:
    """The folder of the reports."""
    return Path(options.out)


def parse_stages(text: str) -> list[Stage]:
    """Of text such as ``10000:30,16384:60``.

    Raises:
        ValueError: The text is not of this form.
    """
    stages = []
    for part in text.split(","):
        episodes, colon, hold_s = part.partition(":")
        if not colon or int(episodes) < 1 or float(hold_s) < 0:
            raise ValueError(f"'{part}' is not EPISODES:SECONDS")
        stages.append(Stage(int(episodes), float(hold_s)))
    return stages


def parse_watch(text: str) -> dict[str, list[int]]:
    """Of text such as ``nodes=12+14,nginx=20``; empty text names no processes.

    Raises:
        ValueError: The text is not of this form.
    """
    watched = {}
    for part in filter(None, text.split(",")):
        name, equals, pids = part.partition("=")
        if not equals:
            raise ValueError(f"'{part}' is not NAME=PID+PID")
        watched[name] = [int(pid) for pid in pids.split("+")]
    return watched


def _checked_by(parse: Callable[[str], object]) -> Callable[[str], str]:
    def checked(text: str) -> str:
        # Kept as text: locust sends options to other processes, and shows them in its page.
        try:
            parse(text)
        except ValueError as fault:
            raise ArgumentTypeError(str(fault)) from None
        return text

    return checked


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be at least 1")
    return number
