"""Kept episodes: what was observed, done and rewarded in an episode that is over."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import orjson

from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.model_notes import notes_of_each, sum_known
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

Ending = Literal["success", "failure", "ended", "time_limit", "unfinished", "lost"]
"""How an episode ended.

- ``success``, ``failure``: the environment ended it and judged it.
- ``ended``: the environment ended it and judges nothing.
- ``time_limit``: it ran out of steps.
- ``unfinished``: it was closed or reset before its end: the trainer ran out of tokens or turns, or left it idle.
- ``lost``: the environment was lost.
"""

ENDINGS: tuple[Ending, ...] = get_args(Ending)

STEP_OVERHEAD_BYTES = 300
"""Memory of the objects that hold a step, without its texts."""
_EPISODE_OVERHEAD_BYTES = 1200
_INVALID = b'"action_is_valid":false'


class EpisodeRow(NamedTuple):
    """Facts about a kept episode by which it is found."""

    id: str
    """``env_id`` and the number of the episode, with a dot between them."""
    env_id: str
    episode: int
    """Number of the episode in its environment, from 0."""
    env_name: str
    run_id: str | None
    group: str
    """The same for all samples of one problem: equal name, arguments and seed."""
    seed: int
    worker: str
    """The worker that held the environment at the episode's end."""
    began_at: float
    """Seconds since the epoch."""
    ended_at: float
    """Seconds since the epoch."""
    num_steps: int
    reward: float
    """Sum of the rewards."""
    success: bool | None
    """None if the environment judges nothing."""
    ending: Ending
    num_invalid: int
    """Steps with an invalid action."""
    complete: bool
    """False if steps are missing: the environment moved and could not be played again, or the episode is too large."""
    training_step: int | None = None
    """Training step whose weights wrote the last action, if the actions say so."""
    tokens: int | None = None
    """Sum of the tokens that the model wrote, if the actions say so."""


class EpisodeOrigin(NamedTuple):
    """The host that keeps episodes."""

    worker: str
    since_epoch: float
    """Seconds that are added to times by its clock."""


class KeptEpisode:
    """An episode with all that was seen and done in it, noted while it goes on.

    Notes are references to what a host has made anyway. What can be derived of them is derived for whoever reads the episode.
    """

    __slots__ = (
        "_row",
        "began_at",
        "beginning",
        "ended_at",
        "env_id",
        "env_kwargs",
        "env_name",
        "episode",
        "first_seq",
        "last_answer",
        "lost",
        "num_steps",
        "options",
        "origin",
        "run_id",
        "seed",
        "size",
        "steps",
    )

    env_id: str
    episode: int
    """Number of the episode in its environment, from 0."""
    env_name: str
    env_kwargs: Mapping[str, Any]
    run_id: str | None
    seed: int
    options: bytes | None
    """Options of the reset, JSON."""
    lost: str | None
    """Reason why the environment was lost, if it was."""
    last_answer: EncodedStep
    num_steps: int
    """Number of all steps, also of those that are not known."""
    ended_at: float
    """By the host's clock."""
    origin: EpisodeOrigin

    def __init__(self, began_at: float, beginning: EncodedReset | None, first_seq: int = 0) -> None:
        """Begin an episode; what is known at its end alone is set then.

        Args:
            began_at: By the host's clock.
            beginning: What was observed first; None if it is not known.
            first_seq: Number of the first step that will be noted; above 0 if those before it are missing.
        """
        self.began_at = began_at
        self.beginning = beginning
        self.first_seq = first_seq
        self.steps: list[EncodedStep] = []
        """Answers of the steps, with their actions and times."""
        self.size = _EPISODE_OVERHEAD_BYTES + size_of(beginning)
        """Bytes that the episode takes in memory, about."""
        self._row: EpisodeRow | None = None

    def add(self, action: bytes, answer: EncodedStep, at: float | None) -> None:
        """Note a step."""
        answer.action, answer.at = action, at
        self.steps.append(answer)
        self.size += len(action) + size_of(answer) + STEP_OVERHEAD_BYTES

    def prepend(
        self, beginning: EncodedReset, actions: Sequence[bytes], answers: Sequence[EncodedStep]
    ) -> None:
        """Put the episode's missing beginning before its steps."""
        noted, self.steps = self.steps, []
        for action, answer in zip(actions, answers, strict=True):
            self.add(action, answer, None)
        self.steps += noted
        self.size += size_of(beginning)
        self.beginning, self.first_seq = beginning, 0

    @property
    def row(self) -> EpisodeRow:
        """Facts by which the episode is found; it has to be over."""
        if self._row is None:
            self._row = self._derived_row()
        return self._row

    def _derived_row(self) -> EpisodeRow:
        ending, success = judge(self.last_answer, self.lost)
        steps = self.steps
        notes = notes_of_each([step.action for step in steps])
        since_epoch = self.origin.since_epoch
        return EpisodeRow(
            id=f"{self.env_id}.{self.episode}",
            env_id=self.env_id,
            episode=self.episode,
            env_name=self.env_name,
            run_id=self.run_id,
            group=group_of(self.env_name, self.env_kwargs, self.seed),
            seed=self.seed,
            worker=self.origin.worker,
            began_at=round(self.began_at + since_epoch, 3),
            ended_at=round(self.ended_at + since_epoch, 3),
            num_steps=self.num_steps,
            reward=math.fsum([step.reward for step in steps]),
            success=success,
            ending=ending,
            num_invalid=sum([_INVALID in step.info for step in steps]),
            complete=len(steps) == self.num_steps,
            training_step=notes[-1].training_step if notes else None,
            tokens=sum_known([each.completion_tokens for each in notes]),
        )

    def to_json(self) -> bytes:
        """Write the episode as one JSON object, without a line break."""
        head = {**self.row._asdict(), "env_kwargs": self.env_kwargs, "lost": self.lost}
        first = self.beginning
        steps = [
            b'{"seq":%d,"at":%b,"action":%b,%b'
            % (seq, self._written(step.at), step.action, step.to_json()[1:])
            for seq, step in enumerate(self.steps, self.first_seq)
        ]
        return b'%b,"options":%b,"observation":%b,"info":%b,"steps":[%b]}' % (
            encode(head)[:-1],
            self.options or b"null",
            b"null" if first is None else first.observation,
            b"null" if first is None else first.info,
            b",".join(steps),
        )

    def _written(self, at: float | None) -> bytes:
        return b"null" if at is None else orjson.dumps(round(at + self.origin.since_epoch, 3))


def group_of(env_name: str, env_kwargs: Mapping[str, Any], seed: int) -> str:
    """Return the name of the group of samples of one problem: 16 hex digits."""
    problem = orjson.dumps([env_name, env_kwargs, seed], None, orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(problem, digest_size=8).hexdigest()


def judge(last: EncodedStep, lost: str | None) -> tuple[Ending, bool | None]:
    """Return how an episode ended, and whether it was a success, from its last step."""
    info = orjson.loads(last.info)
    success = info.get("success") if isinstance(info, dict) else None
    if success is not None:
        success = bool(success)
    if lost is not None:
        return "lost", success
    if last.terminated:
        return ("ended" if success is None else "success" if success else "failure"), success
    if last.truncated:
        return ("success" if success else "time_limit"), success
    return "unfinished", success
