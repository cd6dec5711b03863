"""Kept episodes: what was observed, done and rewarded in an episode that is over."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec
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

_STEP_OVERHEAD_BYTES = 300
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


class EpisodeEnd(msgspec.Struct, frozen=True, gc=False, eq=False, array_like=True, tag=2):
    """Facts of an episode that are known at its end."""

    env_id: str
    episode: int
    """Number of the episode in its environment, from 0."""
    env_name: str
    env_kwargs: Mapping[Any, Any]
    run_id: str | None
    seed: int
    options: bytes | None
    """Options of the reset, JSON."""
    lost: str | None
    """Reason why the environment was lost, if it was."""
    num_steps: int
    """Number of all steps, also of those that are not known."""
    at: float
    """By the host's clock."""


_NO_END = EpisodeEnd("", 0, "", {}, None, 0, None, None, 0, 0.0)


class KeptEpisode(msgspec.Struct, gc=False, eq=False, array_like=True):
    """An episode with all that was seen and done in it.

    What can be derived of it is derived for whoever reads the episode.
    """

    origin: EpisodeOrigin
    began_at: float
    """By the host's clock."""
    beginning: EncodedReset | None
    """What was observed first; None if it is not known."""
    first_seq: int = 0
    """Number of the first of the steps; above 0 if those before it are missing."""
    steps: list[EncodedStep] = []
    """Answers of the steps, with their actions and times."""
    last_answer: EncodedStep | None = None
    """Of the last step, if that is not among the steps."""
    size: int = _EPISODE_OVERHEAD_BYTES
    """Bytes that the episode takes in memory as objects, about."""
    end: EpisodeEnd = _NO_END
    """Set when the episode is over."""

    def to_bytes(self) -> bytes:
        """Write the episode as one piece of memory, which :meth:`from_bytes` reads.

        Raises:
            TypeError, OverflowError: A keyword argument of the environment cannot be written.
        """
        return _WRITER.encode(self)

    @classmethod
    def from_bytes(cls, written: bytes) -> KeptEpisode:
        """Read an episode that this process has written."""
        return _reader().decode(written)

    def add(self, action: bytes, answer: EncodedStep, at: float | None, max_bytes: float = math.inf) -> int:
        """Add a step; of an episode that has so many bytes already, only how it stands. Gives the bytes that were added."""
        if self.size >= max_bytes:
            self.last_answer = answer
            return 0
        answer.action, answer.at = action, at
        self.steps.append(answer)
        self.last_answer = None
        added = len(action) + len(answer.observation) + len(answer.info) + _STEP_OVERHEAD_BYTES
        self.size += added
        return added

    def prepend(
        self, beginning: EncodedReset, actions: Sequence[bytes], answers: Sequence[EncodedStep]
    ) -> None:
        """Put the episode's missing beginning before its steps."""
        noted, last, self.steps = self.steps, self.last_answer, []
        for action, answer in zip(actions, answers, strict=True):
            self.add(action, answer, None)
        self.steps += noted
        self.last_answer = last if noted else None
        self.size += size_of(beginning)
        self.beginning, self.first_seq = beginning, 0

    @property
    def row(self) -> EpisodeRow:
        """Facts by which the episode is found, which has to be over: they are derived."""
        end, steps = self.end, self.steps
        ending, success = judge(self.last_answer or steps[-1], end.lost)
        notes = notes_of_each([step.action for step in steps])
        since_epoch = self.origin.since_epoch
        return EpisodeRow(
            id=f"{end.env_id}.{end.episode}",
            env_id=end.env_id,
            episode=end.episode,
            env_name=end.env_name,
            run_id=end.run_id,
            group=group_of(end.env_name, end.env_kwargs, end.seed),
            seed=end.seed,
            worker=self.origin.worker,
            began_at=round(self.began_at + since_epoch, 3),
            ended_at=round(end.at + since_epoch, 3),
            num_steps=end.num_steps,
            reward=math.fsum([step.reward for step in steps]),
            success=success,
            ending=ending,
            num_invalid=sum([_INVALID in step.info for step in steps]),
            complete=len(steps) == end.num_steps,
            training_step=notes[-1].training_step if notes else None,
            tokens=sum_known([each.completion_tokens for each in notes]),
        )

    def to_json(self, row: EpisodeRow | None = None) -> bytes:
        """Write the episode as one JSON object, without a line break; with its row, if that is derived already."""
        head = {**(row or self.row)._asdict(), "env_kwargs": self.end.env_kwargs, "lost": self.end.lost}
        first = self.beginning
        steps = [
            b'{"seq":%d,"at":%b,"action":%b,%b'
            % (seq, self._written(step.at), step.action, step.to_json()[1:])
            for seq, step in enumerate(self.steps, self.first_seq)
        ]
        return b'%b,"options":%b,"observation":%b,"info":%b,"steps":[%b]}' % (
            encode(head)[:-1],
            self.end.options or b"null",
            b"null" if first is None else first.observation,
            b"null" if first is None else first.info,
            b",".join(steps),
        )

    def _written(self, at: float | None) -> bytes:
        return b"null" if at is None else orjson.dumps(round(at + self.origin.since_epoch, 3))


_WRITER = msgspec.msgpack.Encoder()


@functools.cache
def _reader() -> msgspec.msgpack.Decoder[KeptEpisode]:
    return msgspec.msgpack.Decoder(KeptEpisode)


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
