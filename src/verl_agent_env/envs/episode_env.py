"""Episodes of an environment: seed, random generators, number of steps and snapshot."""

from __future__ import annotations

import contextlib
import operator
import secrets
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import orjson

from verl_agent_env.envs.rng import (
    EpisodeRandom,
    generator_from_state,
    parse_integers,
    stringify_integers,
)
from verl_agent_env.errors import EpisodeEndedError, EpisodeNotStartedError, InvalidEnvArgumentsError
from verl_agent_env.seeds import MAX_SEED, following_seed
from verl_agent_env.types import Action, Observation

SNAPSHOT_FORMAT = 1


class EpisodeEnv(gymnasium.Env[Observation, Action]):
    """Seed, random generators, number of steps and snapshot of the episode that an environment plays."""

    env_name: ClassVar[str] = ""
    """Registered name, such as ``verl_env/sokoban-v0``."""

    __slots__ = ("_ended", "_numpy_rng", "_rng", "_seed", "_steps")

    def __init__(self) -> None:
        self._seed: int | None = None
        self._rng: EpisodeRandom | None = None
        self._numpy_rng: np.random.Generator | None = None
        self._steps = 0
        self._ended = False

    @property
    def episode_seed(self) -> int:
        """Seed of the episode.

        Raises:
            EpisodeNotStartedError: ``reset`` was never called.
        """
        if self._seed is None:
            raise EpisodeNotStartedError
        return self._seed

    @property
    def num_steps(self) -> int:
        """Number of moves made in this episode."""
        return self._steps

    @property
    def ended(self) -> bool:
        """True if the episode was terminated or truncated."""
        return self._ended

    @property
    def rng(self) -> EpisodeRandom:
        """Small, fast random generator of the episode; its ``random()`` gives the same stream as that of ``np_random``."""
        if self._rng is None:
            self._rng = EpisodeRandom.from_seed(self.episode_seed)
        return self._rng

    @property
    def _np_random(self) -> np.random.Generator:
        # Gymnasium keeps a generator here; ours takes a kilobyte and is made on first use.
        if self._numpy_rng is None:
            self._numpy_rng = np.random.Generator(np.random.PCG64(self._seed))
        return self._numpy_rng

    @_np_random.setter
    def _np_random(self, value: np.random.Generator) -> None:
        self._numpy_rng = value

    @property
    def _np_random_seed(self) -> int | None:
        return self._seed

    @_np_random_seed.setter
    def _np_random_seed(self, value: int | None) -> None:
        """Ignore the -1 that Gymnasium writes when it gets a generator; the episode's seed is unchanged."""

    def snapshot(self) -> bytes:
        """Return the whole episode in a few hundred bytes of JSON: state, random generators, seed, step count.

        Raises:
            EpisodeNotStartedError: ``reset`` was never called.
        """
        numpy_state = None if self._numpy_rng is None else self._numpy_rng.bit_generator.state
        document = [
            SNAPSHOT_FORMAT,
            self.episode_seed,
            self._steps,
            self._ended,
            None if self._rng is None else self._rng.state(),
            stringify_integers(numpy_state),
            self.dump_state(),
        ]
        return orjson.dumps(document)

    def restore(self, snapshot: bytes) -> None:
        """Restore a :meth:`snapshot` of an environment with the same arguments.

        Raises:
            ValueError: The bytes are not a snapshot of this format.
        """
        document = orjson.loads(snapshot)
        if not isinstance(document, list) or len(document) != 7 or document[0] != SNAPSHOT_FORMAT:
            raise ValueError(f"not a snapshot of format {SNAPSHOT_FORMAT}")
        _, seed, steps, ended, rng, numpy_state, state = document
        self.load_state(state)
        self._seed, self._steps, self._ended = seed, steps, ended
        self._rng = None if rng is None else EpisodeRandom.from_state(rng)
        self._numpy_rng = None if numpy_state is None else generator_from_state(parse_integers(numpy_state))

    def state_digest(self) -> int:
        """Return a 32-bit checksum of the episode's state, independent of how the state is shown.

        Raises:
            Exception: :meth:`dump_state` failed, or its result is not JSON.
        """
        rng = self._rng
        state = (self._steps, self._ended, None if rng is None else rng.low_bits, self.dump_state())
        return zlib.crc32(orjson.dumps(state))

    def dump_state(self) -> Any:
        """Return the episode's state as small JSON values, without the seed, step count and random generators of the base."""
        raise NotImplementedError

    def load_state(self, state: Any) -> None:
        """Set the state that :meth:`dump_state` returned."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _new_episode(self, seed: int | None) -> Iterator[None]:
        """Set the seed of a new episode; restore the former seed if the new episode cannot begin."""
        if seed is not None:
            seed = self._checked_seed(seed)
        before = self._seed, self._rng, self._numpy_rng
        if seed is None:
            seed = secrets.randbits(53) if self._seed is None else following_seed(self._seed)
        self._seed, self._rng, self._numpy_rng = seed, None, None
        try:
            yield
        except BaseException:
            self._seed, self._rng, self._numpy_rng = before
            raise
        self._steps = 0
        self._ended = False

    def _checked_seed(self, seed: object) -> int:
        try:
            # NumPy's integers are accepted as well.
            number = operator.index(seed)  # type: ignore[arg-type]
        except TypeError:
            number = -1
        if not 0 <= number <= MAX_SEED:
            raise self.invalid_arguments((["seed"], f"must be an integer from 0 to {MAX_SEED}"))
        return number

    def _require_running(self) -> None:
        if self._ended:
            raise EpisodeEndedError
        if self._seed is None:
            raise EpisodeNotStartedError

    @classmethod
    def invalid_arguments(cls, *faults: tuple[list[int | str], str]) -> InvalidEnvArgumentsError:
        """Make the error for faulty arguments from pairs of location and sentence."""
        errors = [{"loc": loc, "msg": message} for loc, message in faults]
        return InvalidEnvArgumentsError(cls.env_name or cls.__name__, errors)
