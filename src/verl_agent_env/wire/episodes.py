"""Kept episodes: what was observed, done and rewarded in an episode that is over."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import orjson

from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.model_notes import notes_of_json
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

_STEP_OVERHEAD_BYTES = 400
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


KeptStep: TypeAlias = tuple[bytes, EncodedStep, float | None]
"""An action as it was sent (JSON; of an environment that moved, as it was recorded), its answer, and when, by the clock of its
host; None if that is not known. A plain tuple, because one is made in each step."""


class KeptEpisode(NamedTuple):
    """An episode that is over, with all that was seen and done in it."""

    row: EpisodeRow
    env_kwargs: Mapping[str, Any]
    options: bytes | None
    """Options of the reset, JSON."""
    lost: str | None
    """Reason why the environment was lost, if it was."""
    beginning: EncodedReset | None
    """None if it is not known."""
    steps: Sequence[KeptStep]
    first_seq: int
    """Number of the first of the steps; above 0 if those before it are missing."""
    since_epoch: float = 0.0
    """Seconds that are added to the times of steps."""

    @property
    def size(self) -> int:
        """Bytes that the episode takes in memory, about."""
        return (
            _EPISODE_OVERHEAD_BYTES
            + (0 if self.beginning is None else size_of(self.beginning))
            + size_of_steps(self.steps)
        )

    def to_json(self) -> bytes:
        """Write the episode as one JSON object, without a line break."""
        head = {**self.row._asdict(), "env_kwargs": self.env_kwargs, "lost": self.lost}
        first = self.beginning
        steps = [
            b'{"seq":%d,"at":%b,"action":%b,%b' % (seq, self._written(at), action, answer.to_json()[1:])
            for seq, (action, answer, at) in enumerate(self.steps, self.first_seq)
        ]
        return b'%b,"options":%b,"observation":%b,"info":%b,"steps":[%b]}' % (
            encode(head)[:-1],
            self.options or b"null",
            b"null" if first is None else first.observation,
            b"null" if first is None else first.info,
            b",".join(steps),
        )

    def _written(self, at: float | None) -> bytes:
        return b"null" if at is None else orjson.dumps(round(at + self.since_epoch, 3))


def size_of_steps(steps: Sequence[KeptStep]) -> int:
    """Return the bytes that steps take in memory, about."""
    return sum(len(action) + size_of(answer) + _STEP_OVERHEAD_BYTES for action, answer, _ in steps)


def group_of(env_name: str, env_kwargs: Mapping[str, Any], seed: int) -> str:
    """Return the name of the group of samples of one problem: 16 hex digits."""
    problem = orjson.dumps([env_name, env_kwargs, seed], None, orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(problem, digest_size=8).hexdigest()


def count_invalid(steps: Sequence[KeptStep]) -> int:
    """Count the steps with an invalid action."""
    return sum(_INVALID in answer.info for _, answer, _ in steps)


def count_tokens(steps: Sequence[KeptStep]) -> int | None:
    """Sum up the tokens that the model wrote; None if no action tells."""
    counts = [notes_of_json(action).completion_tokens for action, _, _ in steps]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


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
