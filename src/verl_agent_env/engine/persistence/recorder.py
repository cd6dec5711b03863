"""Records what happens to live environments in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import orjson

from verl_agent_env import __version__
from verl_agent_env.engine.instance import Instance
from verl_agent_env.engine.journal import Group, Journal, Tenure
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.types import slot_of
from verl_agent_env.wire.codec import StepAnswer
from verl_agent_env.wire.log import Log
from verl_agent_env.wire.records import Entry, Header, RefusalReason, Snapshot, Write, digest_of

logger = logging.getLogger(__name__)

# So many steps are played again at most, however long the episode is.
_STEPS_BETWEEN_SNAPSHOTS = 16


class LiveEnvironments(Protocol):
    """The environments that are recorded: the host."""

    def get(self, env_id: str) -> Instance | None:
        """The live environment of this id, if there is one."""

    def let_go(self, env_id: str) -> None:
        """Forget an environment that another worker owns."""


class Recorder:
    """Records one host's environments.

    What is recorded depends on the kind (:class:`~verl_agent_env.envs.kind.EnvKind`): its steps (``journal``), its state
    after each step (``snapshot``), its steps without waiting for them to be written (``relaxed``), or only that it exists
    (``none``).
    """

    def __init__(
        self,
        log: Log,
        tenure: Tenure,
        environments: LiveEnvironments,
        durabilities: Mapping[str, Durability],
    ) -> None:
        """Make a recorder that has recorded nothing yet.

        Args:
            log: Where to write.
            tenure: The slots that this worker owns.
            environments: What is recorded.
            durabilities: How to keep environments of these names, where it is not as their kinds have it.
        """
        self._environments = environments
        self._durabilities = dict(durabilities)
        self.journal = Journal(log, tenure, self.restate, self._refused)

    def durability_of(self, kind: EnvKind) -> Durability:
        """How environments of this kind are kept."""
        return self._durabilities.get(kind.name, kind.durability)

    def created(self, instance: Instance) -> None:
        """An environment has begun its first episode."""
        self._write(instance, "create", _header(instance))

    def begun(self, instance: Instance) -> None:
        """Another episode has begun."""
        self._write(instance, "begin", _header(instance))

    def stepped(self, instance: Instance, action: bytes, answer: StepAnswer) -> None:
        """A step was applied: ``instance`` stands after it."""
        seq = instance.seq - 1
        if instance.durability == "snapshot":
            self._write(instance, "save", _snapshot(instance), instance.seq)
        elif instance.durability != "none":
            digest = instance.digests[-1] if instance.digests else digest_of(answer)
            entry = b"%b\n%b\n%b" % (instance.last_operation, digest, action)
            self._write(instance, "append", entry, seq)
            if instance.kind.has_state and instance.seq % _STEPS_BETWEEN_SNAPSHOTS == 0:
                self._write(instance, "save", _snapshot(instance), instance.seq)

    def closed(self, instance: Instance, reason: str) -> None:
        """An environment has come to its end."""
        self._write(instance, "close", reason.encode())

    def restate(self, env_id: str) -> tuple[Write, ...]:
        """Writes that say all of a live environment; none if it is not here, or its history was not kept."""
        instance = self._environments.get(env_id)
        if instance is None or instance.lost is not None:
            return ()
        entries: tuple[bytes, ...] = ()
        if instance.durability in ("journal", "relaxed"):
            if not instance.history_complete or (instance.seq and instance.digests is None):
                return ()
            entries = tuple(
                Entry(instance.last_operation if seq == instance.seq - 1 else b"", digest, action).to_bytes()
                for seq, (digest, action) in enumerate(
                    zip(instance.digests or (), instance.actions or (), strict=True)
                )
            )
        slot, episode = slot_of(env_id), instance.episode
        whole = Write("put", env_id, slot, episode, len(entries), _header(instance), entries)
        if instance.durability == "snapshot" and instance.seq:
            return whole, Write("save", env_id, slot, episode, instance.seq, _snapshot(instance))
        return (whole,)

    def restate_all(self, env_ids: Iterable[str]) -> None:
        """State everything again, in a store that was emptied."""
        for env_id in env_ids:
            for write in self.restate(env_id):
                self.journal.write(write)

    def group_of(self, instance: Instance) -> Group | None:
        """The group that answers about the environment have to wait for; None when all is written."""
        group = instance.group
        return None if group is None or group.is_done or instance.durability == "relaxed" else group

    def _write(self, instance: Instance, kind: Any, data: bytes, seq: int = 0) -> None:
        env_id = instance.env_id
        instance.group = self.journal.write(
            Write(kind, env_id, int(env_id[:3], 16), instance.episode, seq, data)
        )

    def _refused(self, env_id: str, reason: RefusalReason) -> None:
        """The environment lives elsewhere, or nowhere: what is here of it is worthless."""
        logger.debug("an environment was taken away", extra={"env_id": env_id, "reason": reason})
        self._environments.let_go(env_id)


def _header(instance: Instance) -> bytes:
    return Header(
        env_name=instance.kind.name,
        env_kwargs=instance.env_kwargs or {},
        run_id=instance.run_id,
        ttl_s=instance.ttl_s,
        durability=instance.durability,
        episode=instance.episode,
        seed=instance.seed,
        options=None if instance.options is None else orjson.Fragment(instance.options),
        created_at=round(time.time(), 3),
        version=__version__,
        resets=[operation.decode("latin-1") for operation in instance.resets],
    ).to_json()


def _snapshot(instance: Instance) -> bytes:
    env: Any = instance.env
    if instance.last_answer is None or instance.last_action is None:
        raise ValueError("an environment that took no step has nothing to save")
    return Snapshot(
        instance.seq, env.snapshot(), instance.last_operation, instance.last_action, instance.last_answer
    ).to_json()
