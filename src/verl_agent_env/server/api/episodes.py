"""Handlers of the calls on kept episodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from verl_agent_env.engine import Host, inspection
from verl_agent_env.engine.episodes.search import SORT_KEYS, EpisodePage, EpisodeQuery, sees
from verl_agent_env.errors import EpisodeNotFoundError
from verl_agent_env.server.api.episode_tables import parquet_of
from verl_agent_env.server.api.queries import (
    MAX_DIGITS,
    a_number,
    one_of,
    query_of,
    require_known,
    whole_number,
    yes_or_no,
)
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import encode
from verl_agent_env.wire.episode_rows import POINT_S, RunSummary
from verl_agent_env.wire.episodes import ENDINGS, EpisodeRow
from verl_agent_env.wire.model_notes import notes_of

MAX_EPISODES = 1000
"""Of a page."""
MAX_EXPORTED = 100_000
MAX_TABLE_ROWS = 10_000
"""Of a table, which is made as a whole."""
_DOCUMENTS_AT_ONCE = 16
_PATH = "/api/episodes/"
_PARAMETERS = (
    *(
        "run",
        "env",
        "group",
        "seed",
        "training_step",
        "ending",
        "success",
        "invalid",
        "min_reward",
        "max_reward",
        "text",
    ),
    *("sort", "order", "offset", "limit"),
)
_SUMS = ("episodes", "judged", "successes", "reward", "num_steps", "seconds")


class EpisodeSource(Protocol):
    """The kept episodes of all workers."""

    async def find(self, query: EpisodeQuery) -> tuple[EpisodePage, list[str]]:
        """Find a page of episodes; gives it with the workers that did not answer."""

    async def sum_up(self, query: EpisodeQuery, *, points: bool) -> tuple[list[RunSummary], list[str]]:
        """Sum up episodes by run; gives the sums with the workers that did not answer."""

    async def documents(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return episodes, in order; None for those that are not there."""


class EpisodeHandlers:
    """Answers what episodes are kept, and what happened in them."""

    def __init__(self, host: Host, kept: EpisodeSource | None) -> None:
        """Answer from what is kept.

        Args:
            host: Reads and draws the episodes' actions once more.
            kept: The episodes; None if none are kept.
        """
        self._host = host
        self._kept = kept

    async def find(self, request: Request) -> Response:
        """List kept episodes, a page of those that fit all parameters; the latest first, if nothing else is said."""
        query = episode_query(request, default_limit=100, max_limit=MAX_EPISODES)
        if self._kept is None:
            return Response(encode(_page([], 0, query, is_kept=False)))
        page, silent = await self._kept.find(query)
        found = _page(page.rows, page.total, query, is_whole=page.is_whole, silent=silent)
        return Response(encode({**found, "endings": page.endings, "invalid": page.invalid}))

    async def read(self, request: Request) -> Response:
        """Read a kept episode: each observation, each action as it was sent and as it is read, each reward and info."""
        draws = one_of(query_of(request), "render", ("svg",)) is not None
        episode_id = request.path.removeprefix(_PATH)
        episode: dict[str, Any] | None = None
        if self._kept is not None and sees(episode_id.partition(".")[0], request.principal.run_tag):
            (episode,) = await self._kept.documents([episode_id])
        if episode is None:
            raise EpisodeNotFoundError(episode_id[:128])
        actions = [step["action"] for step in episode["steps"]]
        readings = await inspection.read_kept_actions(
            self._host, episode["env_name"], episode["env_kwargs"], actions
        )
        for step, reading in zip(episode["steps"], readings, strict=True):
            info = step["info"] or {}
            if reading is not None and not reading["valid"] and info.get("action_is_valid"):
                # Read by an environment that is not in this step's state: its tools were others then.
                reading = info.get("reading")
            step["reading"] = reading
            notes = notes_of(step["action"])
            step["prompt_tokens"], step["tokens"] = notes.prompt_tokens, notes.completion_tokens
        if draws:
            await self._draw(episode, actions)
        return Response(encode(episode))

    async def runs(self, request: Request) -> Response:
        """Sum up kept episodes by run, the one with the latest episode first; of one run also its curve by tens of seconds."""
        query = episode_query(request, default_limit=100, max_limit=MAX_EPISODES)
        if self._kept is None:
            return Response(encode({"kept": False, "runs": [], "total": 0, "silent_workers": []}))
        runs, silent = await self._kept.sum_up(query, points=query.run is not None)
        shown = [_shown_run(run) for run in runs[query.offset : query.offset + query.limit]]
        return Response(encode({"kept": True, "runs": shown, "total": len(runs), "silent_workers": silent}))

    async def export_lines(self, request: Request) -> Response:
        """Export kept episodes, as :meth:`read` gives them but for the reading of actions, a line of JSON each."""
        query = episode_query(request, default_limit=MAX_EXPORTED, max_limit=MAX_EXPORTED)
        rows = await self._rows(query)
        headers = ((b"content-disposition", b'attachment; filename="episodes.jsonl"'),)
        return Response(b"", b"application/jsonl", 200, headers, self._lines(rows))

    async def export_table(self, request: Request) -> Response:
        """Export kept episodes as conversations in parquet, for supervised fine-tuning with verl's data set."""
        query = episode_query(request, default_limit=MAX_TABLE_ROWS, max_limit=MAX_TABLE_ROWS)
        rows = await self._rows(query)
        documents = [document async for document in self._documents(rows)]
        table = await parquet_of(documents, self._host.registry, self._host.kinds)
        headers = ((b"content-disposition", b'attachment; filename="episodes.parquet"'),)
        return Response(table, b"application/vnd.apache.parquet", 200, headers)

    async def _rows(self, query: EpisodeQuery) -> list[EpisodeRow]:
        return [] if self._kept is None else (await self._kept.find(query))[0].rows

    async def _documents(self, rows: Sequence[EpisodeRow]) -> AsyncIterator[dict[str, Any]]:
        """Yield the episodes of rows; those that were deleted meanwhile are left out."""
        for first in range(0, len(rows), _DOCUMENTS_AT_ONCE):
            ids = [row.id for row in rows[first : first + _DOCUMENTS_AT_ONCE]]
            for document in await self._kept.documents(ids) if self._kept is not None else ():
                if document is not None:
                    yield document

    async def _lines(self, rows: Sequence[EpisodeRow]) -> AsyncGenerator[bytes, None]:
        async for document in self._documents(rows):
            yield encode(document) + b"\n"

    async def _draw(self, episode: dict[str, Any], actions: Sequence[Any]) -> None:
        """Add drawings to an episode, if it can be drawn."""
        options = episode["options"]
        drawings = None
        if episode["complete"]:
            drawings = await inspection.draw_kept(
                self._host,
                episode["env_name"],
                episode["env_kwargs"],
                episode["seed"],
                None if options is None else encode(options),
                list(map(encode, actions)),
            )
        episode["drawing"] = drawings[0] if drawings else None
        for number, step in enumerate(episode["steps"], 1):
            step["drawing"] = drawings[number] if drawings else None


def episode_query(request: Request, *, default_limit: int, max_limit: int) -> EpisodeQuery:
    """Read which episodes are asked for.

    Raises:
        InvalidRequestError: A parameter is wrong or unknown.
    """
    query = query_of(request)
    require_known(query, _PARAMETERS)
    sort = one_of(query, "sort", SORT_KEYS)
    return EpisodeQuery(
        run=_text(query, "run"),
        env=_text(query, "env"),
        group=_text(query, "group"),
        seed=whole_number(query, "seed", 0, 0, 10**MAX_DIGITS) if "seed" in query else None,
        training_step=_step_in(query),
        ending=one_of(query, "ending", ENDINGS),
        success=yes_or_no(query, "success"),
        invalid=yes_or_no(query, "invalid"),
        min_reward=a_number(query, "min_reward"),
        max_reward=a_number(query, "max_reward"),
        text=(_text(query, "text") or "").strip(),
        sort=sort or "ended_at",
        descending=(one_of(query, "order", ("asc", "desc")) or "desc") == "desc",
        offset=whole_number(query, "offset", 0, 0, 10**MAX_DIGITS),
        limit=whole_number(query, "limit", default_limit, 1, max_limit),
        tag=request.principal.run_tag,
    )


def _step_in(query: Mapping[str, list[str]]) -> int | None:
    # An empty field of a form is one that was not filled in.
    given = _text(query, "training_step")
    return None if given is None else whole_number(query, "training_step", 0, 0, 10**MAX_DIGITS)


def _text(query: Mapping[str, list[str]], name: str) -> str | None:
    # An empty field of a form is one that was not filled in.
    return query.get(name, [""])[-1] or None


def _page(
    rows: Sequence[EpisodeRow],
    total: int,
    query: EpisodeQuery,
    *,
    is_kept: bool = True,
    is_whole: bool = True,
    silent: Sequence[str] = (),
) -> dict[str, Any]:
    following = query.offset + len(rows)
    return {
        "kept": is_kept,
        "episodes": [row._asdict() for row in rows],
        "total": total,
        "next_offset": following if rows and (following < total or not is_whole) else None,
        "is_whole": is_whole,
        "endings": {},
        "invalid": 0,
        "silent_workers": list(silent),
    }


def _shown_run(run: RunSummary) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "episodes": run.episodes,
        "judged": run.judged,
        "successes": run.successes,
        "mean_reward": run.reward / run.episodes,
        "num_steps": run.num_steps,
        "invalid": run.invalid,
        "began_at": run.began_at,
        "ended_at": run.ended_at,
        "endings": run.endings,
        "environments": [
            {"env_name": name, **dict(zip(_SUMS, sums, strict=True))}
            for name, sums in sorted(run.envs.items())
        ],
        "points": [
            {"at": ten_seconds * POINT_S, **dict(zip(_SUMS, sums, strict=True))}
            for ten_seconds, sums in sorted(run.points.items())
        ],
        "training_steps": [
            {"training_step": step, **dict(zip(_SUMS, sums, strict=True))}
            for step, sums in sorted(run.training_steps.items())
        ],
    }
