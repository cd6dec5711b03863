"""Tables of kept episodes, in parquet."""

from __future__ import annotations

import asyncio
import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from verl_agent_env.engine.episodes.conversations import conversation_of
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import InvalidRequestError, VerlAgentEnvError
from verl_agent_env.wire.demonstrations import demonstration_schema

_COPIED = (
    "id",
    "env_name",
    "run_id",
    "group",
    "seed",
    "ending",
    "num_steps",
    "num_invalid",
    "ended_at",
    "training_step",
    "tokens",
)


async def parquet_of(episodes: Sequence[Mapping[str, Any]], registry: Registry, kinds: KindLoader) -> bytes:
    """Write episodes as conversations in parquet.

    Args:
        episodes: As :meth:`~verl_agent_env.wire.episodes.KeptEpisode.to_json` writes them.
        registry: Knows the tools of their environments.
        kinds: Loads kinds.

    Raises:
        InvalidRequestError: pyarrow is not installed.
    """
    try:
        # In a thread: it takes some tenths of a second the first time.
        await asyncio.to_thread(importlib.import_module, "pyarrow.parquet")
    except ImportError:
        raise InvalidRequestError(
            [{"loc": [], "msg": "parquet needs pyarrow at the server: pip install 'verl-agent-env[curate]'"}]
        ) from None
    import pyarrow
    import pyarrow.parquet

    names = sorted({str(episode["env_name"]) for episode in episodes})
    await kinds.load(names)
    tools = {name: _tools_of(registry, name) for name in names}

    def write() -> bytes:
        schema = demonstration_schema(pyarrow)
        for name, kind in (
            *((name, pyarrow.string()) for name in ("id", "env_name", "run_id", "group", "ending")),
            *(
                (name, pyarrow.int64())
                for name in ("seed", "num_steps", "num_invalid", "training_step", "tokens")
            ),
            ("ended_at", pyarrow.float64()),
        ):
            schema = schema.append(pyarrow.field(name, kind))
        rows = [
            {
                "messages": conversation_of(episode),
                "tools_json": tools[str(episode["env_name"])],
                "reward": episode["reward"],
                "success": episode["success"],
                **{name: episode.get(name) for name in _COPIED},
            }
            for episode in episodes
        ]
        written = io.BytesIO()
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows, schema=schema), written, compression="zstd"
        )
        return written.getvalue()

    return await asyncio.to_thread(write)


def _tools_of(registry: Registry, env_name: str) -> str:
    """Return the tools of an environment as JSON; empty if it is not installed here."""
    try:
        tools = getattr(registry.kind(env_name).env_class, "tools", ())
    except (VerlAgentEnvError, ImportError):
        return ""
    return orjson.dumps([tool.openai() for tool in tools]).decode()
