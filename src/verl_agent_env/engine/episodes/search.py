"""Finds kept episodes, and sums them up by run."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, get_args

import orjson

from verl_agent_env.types import tag_of
from verl_agent_env.wire.episode_rows import RunSummary, grouped
from verl_agent_env.wire.episode_store import EpisodeStore
from verl_agent_env.wire.episodes import EpisodeRow

SortKey = Literal["ended_at", "began_at", "reward", "num_steps", "num_invalid", "env_name", "seed"]
SORT_KEYS: tuple[SortKey, ...] = get_args(SortKey)

SEARCH_S = 0.2
"""Seconds for which one request looks for a text."""
_DOCUMENTS_AT_ONCE = 32
_PAGING: dict[str, Any] = {"sort": "ended_at", "descending": True, "offset": 0, "limit": 1}
"""A page, of which sums take no notice."""


@dataclass(frozen=True)
class EpisodeQuery:
    """A request for a page of kept episodes: filters, order, place of the page."""

    run: str | None = None
    env: str | None = None
    group: str | None = None
    seed: int | None = None
    training_step: int | None = None
    ending: str | None = None
    success: bool | None = None
    invalid: bool | None = None
    """Those with an invalid action, or those without."""
    min_reward: float | None = None
    max_reward: float | None = None
    text: str = ""
    """Found in what was observed and done, capitals or not."""
    sort: SortKey = "ended_at"
    descending: bool = True
    offset: int = 0
    limit: int = 100
    tag: str | None = None
    """Of the holder whose episodes are seen; None for those of all holders."""


@dataclass
class EpisodePage:
    """The episodes of one page, of one store or of several."""

    rows: list[EpisodeRow]
    total: int
    """Number of all that fit; with a text, how many were found in the time."""
    is_whole: bool = True
    """False if the time for the text was over before all episodes were looked at."""
    endings: dict[str, int] = field(default_factory=dict)
    """Number of episodes by ending, whatever the query says of endings, successes and invalid actions."""
    invalid: int = 0
    """Number of these that have an invalid action."""

    def to_json(self) -> bytes:
        """Write the page as another worker reads it."""
        return orjson.dumps({**dataclasses.asdict(self), "rows": [list(row) for row in self.rows]})

    @classmethod
    def from_json(cls, text: bytes) -> EpisodePage:
        """Read a page that another worker wrote."""
        fields = orjson.loads(text)
        return cls(**{**fields, "rows": [EpisodeRow(*row) for row in fields["rows"]]})


async def find(store: EpisodeStore, query: EpisodeQuery) -> EpisodePage:
    """Find the episodes of a store from its first page to the end of the page that is asked for.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    # In a thread: a hundred thousand rows take some tenths of a second.
    page, found = await asyncio.to_thread(_select, await store.rows(), query)
    if not query.text:
        page.rows = found[: query.offset + query.limit]
        return page
    page.rows, page.total, page.is_whole = [], 0, True
    needle = orjson.dumps(query.text)[1:-1].lower()
    end = time.monotonic() + SEARCH_S
    for first in range(0, len(found), _DOCUMENTS_AT_ONCE):
        if time.monotonic() > end or len(page.rows) >= query.offset + query.limit:
            page.is_whole = False
            break
        some = found[first : first + _DOCUMENTS_AT_ONCE]
        documents = await store.documents([row.id for row in some])
        page.rows += await asyncio.to_thread(_having, needle, some, documents)
    page.total = len(page.rows)
    return page


async def sum_up(store: EpisodeStore, query: EpisodeQuery, *, points: bool) -> list[RunSummary]:
    """Sum up the episodes of a store by run, with the points of their curves if they are asked for.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    counts_all = dataclasses.replace(query, run=None, tag=None, **_PAGING) == EpisodeQuery(**_PAGING)
    if counts_all:
        runs = await store.runs(query.tag)
    else:
        runs = await asyncio.to_thread(_sum_up, await store.rows(), query, points=points)
    wanted = [run for run in runs if query.run in (None, run.run_id)]
    if points:
        return [dataclasses.replace(run) for run in wanted]
    return [dataclasses.replace(run, points={}, training_steps={}) for run in wanted]


def merge_pages(pages: Iterable[EpisodePage], query: EpisodeQuery) -> EpisodePage:
    """Merge the pages of several stores into the page that is asked for."""
    merged = EpisodePage([], 0)
    for page in pages:
        merged.rows += page.rows
        merged.total += page.total
        merged.is_whole = merged.is_whole and page.is_whole
        merged.endings = dict(Counter(merged.endings) + Counter(page.endings))
        merged.invalid += page.invalid
    # The same episode may come from two stores: one that was read while it moved.
    merged.rows = _sorted(list({row.id: row for row in merged.rows}.values()), query)
    merged.rows = merged.rows[query.offset : query.offset + query.limit]
    return merged


def merge_runs(parts: Iterable[Sequence[RunSummary]]) -> list[RunSummary]:
    """Merge the sums of several stores, the run with the latest episode first."""
    runs: dict[str | None, RunSummary] = {}
    for part in parts:
        for run in part:
            runs.setdefault(run.run_id, RunSummary(run.run_id)).add(run)
    return sorted(runs.values(), key=lambda run: run.ended_at)[::-1]


def sees(row_env_id: str, tag: str | None) -> bool:
    """Tell whether the holder with this tag sees the episodes of an environment."""
    return tag is None or tag_of(row_env_id) == tag


def _select(rows: Sequence[EpisodeRow], query: EpisodeQuery) -> tuple[EpisodePage, list[EpisodeRow]]:
    """Return a page with its counts alone, and all rows that fit the query but for its text, in order."""
    found = _narrowed(rows, query)
    page = EpisodePage([], 0, True, dict(Counter(row.ending for row in found)))
    page.invalid = sum(row.num_invalid > 0 for row in found)
    for fits in _judgements(query):
        found = [row for row in found if fits(row)]
    page.total = len(found)
    # Stores give the oldest first, which is so only where that is asked for.
    if query.descending or query.sort != "ended_at":
        found.reverse()
    return page, _sorted(found, query)


def _narrowed(rows: Sequence[EpisodeRow], query: EpisodeQuery) -> list[EpisodeRow]:
    """Return the rows that fit the query, whatever it says of endings, successes and invalid actions."""
    found = list(rows)
    if query.tag is not None:
        found = [row for row in found if tag_of(row.env_id) == query.tag]
    for name, wanted in (
        ("run_id", query.run),
        ("env_name", query.env),
        ("group", query.group),
        ("seed", query.seed),
        ("training_step", query.training_step),
    ):
        if wanted is not None:
            read = attrgetter(name)
            found = [row for row in found if read(row) == wanted]
    if query.min_reward is not None:
        found = [row for row in found if row.reward >= query.min_reward]
    if query.max_reward is not None:
        found = [row for row in found if row.reward <= query.max_reward]
    return found


def _judgements(query: EpisodeQuery) -> Iterable[Callable[[EpisodeRow], bool]]:
    if query.ending is not None:
        yield lambda row: row.ending == query.ending
    if query.success is not None:
        yield lambda row: row.success is query.success
    if query.invalid is not None:
        yield lambda row: (row.num_invalid > 0) is query.invalid


def _sorted(rows: list[EpisodeRow], query: EpisodeQuery) -> list[EpisodeRow]:
    """Sort rows; equal ones by their end, the latest first, and those of one millisecond as they are."""
    if query.sort != "ended_at":
        rows.sort(key=attrgetter("ended_at"), reverse=True)
    rows.sort(key=attrgetter(query.sort), reverse=query.descending)
    return rows


def _having(needle: bytes, rows: Sequence[EpisodeRow], documents: Sequence[bytes | None]) -> list[EpisodeRow]:
    return [
        row
        for row, document in zip(rows, documents, strict=True)
        if document is not None and needle in document.lower()
    ]


def _sum_up(rows: Sequence[EpisodeRow], query: EpisodeQuery, *, points: bool) -> list[RunSummary]:
    by_run = grouped(_narrowed(rows, query), attrgetter("run_id"))
    return [RunSummary.of(run_id, some, points=points) for run_id, some in by_run.items()]


def run_from_fields(fields: Mapping[str, Any]) -> RunSummary:
    """Read the sums that another worker wrote as JSON."""
    numbered = {
        name: {int(number): sums for number, sums in fields.get(name, {}).items()}
        for name in ("points", "training_steps")
    }
    return RunSummary(**{**fields, **numbered})
