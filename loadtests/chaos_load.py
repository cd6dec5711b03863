"""Load that notices everything: steps environments, sends again what may be sent again, and remembers each answer."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

import verl_agent_env.interface as interface
from loadtests import bad_env

ENV_NAME = "frozen_lake"
KWARGS: dict[str, Any] = {
    "desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"],
    "is_slippery": True,
    "max_steps": 100_000,
}
"""No holes: an episode ends at the goal only, and its steps depend on the seed."""
STEPS_PER_EPISODE = 50
_MOVES = ("left", "down", "up", "left")
_PAUSE_S = 0.05
_MISBEHAVE_EVERY_S = 0.5
_TIMEOUT_S = 60.0


@dataclass
class Episode:
    """One environment, as its client sees it."""

    env_id: str
    seed: int
    is_sampled: bool = True
    """Whether its answers are remembered, to be compared in the end."""
    seq: int = 0
    """Number of the next step."""
    actions: list[str] = field(default_factory=list)
    """Acknowledged ones."""
    digests: list[bytes] = field(default_factory=list)
    """Of the answers to them."""
    lost: str = ""
    """Code of the error that ended it before its time."""
    steps: int = 0
    """Acknowledged in all episodes."""
    earlier: list[tuple[int, list[str], list[bytes]]] = field(default_factory=list)
    """Seeds, actions and digests of the episodes before this one."""

    @property
    def is_over(self) -> bool:
        """Whether another episode should begin."""
        return self.seq >= STEPS_PER_EPISODE

    def begin(self) -> None:
        """Note that the next episode has begun."""
        if self.is_sampled:
            self.earlier.append((self.seed, self.actions, self.digests))
        self.seed += 1
        self.seq = 0
        self.actions, self.digests = [], []

    def next_action(self) -> str:
        """What to do next; the same until it is acknowledged."""
        return _MOVES[(self.seed + self.seq * 7) % len(_MOVES)]

    def acknowledge(self, answer: list[Any]) -> None:
        """Note the answer ``[observation, reward, terminated, truncated, info]`` to :meth:`next_action`."""
        if self.is_sampled:
            self.actions.append(self.next_action())
            self.digests.append(digest_of(answer))
        self.seq += 1
        self.steps += 1


def digest_of(answer: list[Any]) -> bytes:
    """Tells one answer from another."""
    return hashlib.blake2b(orjson.dumps(answer, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()


@dataclass
class Ledger:
    """What a client saw during one fault."""

    calls: int = 0
    steps: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Tries that failed, by code; all of them were made again."""
    unretryable: Counter[str] = field(default_factory=Counter)
    """Errors that cannot be mended: lost environments, wrong sequences."""
    longest_s: float = 0.0
    """From the first try of a step to its answer."""
    latencies_s: list[float] = field(default_factory=list)

    def plus(self, other: Ledger) -> Ledger:
        """Both together."""
        return Ledger(
            self.calls + other.calls,
            self.steps + other.steps,
            self.refused + other.refused,
            self.unretryable + other.unretryable,
            max(self.longest_s, other.longest_s),
            self.latencies_s + other.latencies_s,
        )

    def p99_s(self) -> float:
        """The 99th percentile of a step's time, tries included."""
        ordered = sorted(self.latencies_s)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0


class Load:
    """Clients that step all environments over and over, some alone, most in batches."""

    def __init__(
        self,
        url: str,
        episodes: int,
        *,
        think_s: float = 0.5,
        sample: int = 500,
        singles: int = 16,
        batches: int = 4,
    ) -> None:
        """Nothing runs yet.

        Args:
            url: Of the cluster.
            episodes: How many environments.
            think_s: How long a client thinks, in the mean, between an answer and its next calls.
            sample: Of how many environments all answers are remembered.
            singles: How many clients step their environments one by one; each has up to fifty.
            batches: How many clients step all others in calls of equal shares.
        """
        self.url = url
        self.ledger = Ledger()
        self.episodes: list[Episode] = []
        self._size = episodes
        self._think_s = think_s
        self._sample = sample
        self._singles = singles
        self._batches = batches
        self._session: aiohttp.ClientSession | None = None
        self._clients: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def start(self) -> None:
        """Make the environments and begin to step them."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        )
        seeds = [random.getrandbits(40) for _ in range(self._size)]
        body = {"env_name": ENV_NAME, "env_kwargs": KWARGS, "seeds": seeds, "run_id": "chaos"}
        made = await self._call("/api/batch/initialize", body)
        if made["errors"]:
            raise RuntimeError(str(made["errors"][0]))
        sampled = set(random.sample(range(self._size), min(self._sample, self._size)))
        self.episodes = [
            Episode(env_id, seed, number in sampled)
            for number, (env_id, seed) in enumerate(zip(made["env_ids"], seeds, strict=True))
        ]
        alone = min(self._singles * 50, self._size // 5)
        shares = [self.episodes[:alone][number :: self._singles] for number in range(self._singles)]
        self._clients = [asyncio.create_task(self._one_by_one(share)) for share in shares if share]
        rest = self.episodes[alone:]
        for number in range(self._batches):
            self._clients.append(asyncio.create_task(self._together(rest[number :: self._batches])))

    def renew(self) -> Ledger:
        """A new ledger from now on; gives the old one."""
        old, self.ledger = self.ledger, Ledger()
        return old

    async def rounds(self, count: int = 2) -> None:
        """Return when every environment that lives was stepped so many times more."""
        goals = [episode.steps + count for episode in self.episodes]
        while any(e.steps < goal and not e.lost for e, goal in zip(self.episodes, goals, strict=True)):
            for client in self._clients:
                if client.done():
                    client.result()
            await asyncio.sleep(_PAUSE_S)

    async def stop(self) -> None:
        """Stop stepping, when what is under way is done."""
        self._is_stopping = True
        await asyncio.gather(*self._clients)

    async def close(self) -> int:
        """Close all environments; gives how many there were."""
        closed = await self._call("/api/batch/close", {"run_id": "chaos"})
        if self._session is not None:
            await self._session.close()
        return int(closed["closed"])

    async def server_seqs(self, episodes: list[Episode]) -> list[int | str]:
        """How many steps each environment has taken according to the server; or the code of its error."""
        seqs: list[int | str] = []
        for episode in episodes:
            answer = await self._call(f"/api/environment/{episode.env_id}", None)
            seqs.append(answer["seq"] if "seq" in answer else str(answer.get("code")))
        return seqs

    # --- clients --------------------------------------------------------------------------------------------

    async def _one_by_one(self, episodes: list[Episode]) -> None:
        while not self._is_stopping:
            for episode in episodes:
                if episode.lost or self._is_stopping:
                    continue
                began = time.perf_counter()
                if episode.is_over:
                    answer = await self._call(
                        f"/api/environment/{episode.env_id}/reset", {"seed": episode.seed + 1}
                    )
                    if "code" in answer:
                        self._lose(episode, answer["code"])
                        continue
                    episode.begin()
                body = {"action": episode.next_action(), "seq": episode.seq}
                answer = await self._call(f"/api/environment/{episode.env_id}/step", body)
                if "code" in answer:
                    self._lose(episode, answer["code"])
                    continue
                keys = ("observation", "reward", "terminated", "truncated", "info")
                episode.acknowledge([answer[key] for key in keys])
                self._note(time.perf_counter() - began, 1)
            await self._think()

    async def _together(self, episodes: list[Episode]) -> None:
        while not self._is_stopping:
            began = time.perf_counter()
            left = [episode for episode in episodes if not episode.lost]
            if not left:
                return
            await self._begin_together([episode for episode in left if episode.is_over])
            left = [episode for episode in left if not episode.lost and not episode.is_over]
            while left and not self._is_stopping:
                left = await self._step_together(left, began)
                if left:
                    await asyncio.sleep(_PAUSE_S)
            await self._think()

    async def _begin_together(self, episodes: list[Episode]) -> None:
        """Begin another episode in all of them."""
        while episodes and not self._is_stopping:
            body = {"env_ids": [e.env_id for e in episodes], "seeds": [e.seed + 1 for e in episodes]}
            answer = await self._call("/api/batch/reset", body)
            failed = {error["index"]: error for error in answer["errors"]}
            again = []
            for index, episode in enumerate(episodes):
                error = failed.get(index)
                if error is None:
                    episode.begin()
                elif error["retryable"]:
                    self.ledger.refused[error["code"]] += 1
                    again.append(episode)
                else:
                    self._lose(episode, error["code"])
            episodes = again

    async def _step_together(self, episodes: list[Episode], began: float) -> list[Episode]:
        """Step all of them in one call; gives those that have to be sent again."""
        body = {
            "env_ids": [episode.env_id for episode in episodes],
            "actions": [episode.next_action() for episode in episodes],
            "seqs": [episode.seq for episode in episodes],
        }
        answer = await self._call("/api/batch/step", body)
        failed = {error["index"]: error for error in answer["errors"]}
        again = []
        columns = [answer[key] for key in ("observations", "rewards", "terminations", "truncations", "infos")]
        for index, (episode, *row) in enumerate(zip(episodes, *columns, strict=True)):
            error = failed.get(index)
            if error is None:
                episode.acknowledge(row)
            elif error["retryable"]:
                self.ledger.refused[error["code"]] += 1
                again.append(episode)
            else:
                self._lose(episode, error["code"])
        self._note(time.perf_counter() - began, len(episodes) - len(again))
        return again

    async def misbehave(self, seconds: float, neighbours: int = 4) -> None:
        """Have so many environments block, as many raise and as many leak all the time."""
        made = await self._call(
            "/api/batch/initialize", {"env_name": bad_env.ENV_NAME, "num_envs": 3 * neighbours}
        )
        if made["errors"]:
            raise RuntimeError(str(made["errors"][0]))
        end = time.perf_counter() + seconds

        async def one(env_id: str, action: str) -> None:
            while time.perf_counter() < end:
                await self._call(f"/api/environment/{env_id}/step", {"action": action}, patient=False)
                await asyncio.sleep(_MISBEHAVE_EVERY_S)

        actions = ["block", "raise", "leak"] * neighbours
        await asyncio.gather(*map(one, made["env_ids"], actions))
        await self._call("/api/batch/close", {"env_ids": made["env_ids"]})

    async def _call(self, path: str, body: dict[str, Any] | None, *, patient: bool = True) -> dict[str, Any]:
        """The answer, after as many tries as it takes; a problem document if it says that trying is in vain.

        Args:
            path: Of the call.
            body: As JSON; none asks with ``GET``.
            patient: Whether it is tried again; what is not is not counted either.
        """
        if self._session is None:
            raise RuntimeError("the load was not started")
        method = "GET" if body is None else "POST"
        headers = {"Idempotency-Key": random.randbytes(16).hex()} if path.endswith("initialize") else {}
        while True:
            self.ledger.calls += patient
            try:
                async with self._session.request(
                    method, self.url + path, json=body, headers=headers
                ) as answer:
                    document: dict[str, Any] = orjson.loads(await answer.read())
                    if answer.status == 200 or not patient or not document.get("retryable"):
                        return document
                    self.ledger.refused[document["code"]] += 1
            except (aiohttp.ClientError, TimeoutError) as broken:
                self.ledger.refused[type(broken).__name__] += 1
            except orjson.JSONDecodeError:
                self.ledger.refused["not JSON"] += 1
            await asyncio.sleep(_PAUSE_S)

    async def _think(self) -> None:
        await asyncio.sleep(self._think_s * random.uniform(0.5, 1.5))

    def _note(self, elapsed_s: float, steps: int) -> None:
        ledger = self.ledger
        ledger.steps += steps
        ledger.longest_s = max(ledger.longest_s, elapsed_s)
        ledger.latencies_s.append(elapsed_s)

    def _lose(self, episode: Episode, code: str) -> None:
        # An episode may end by itself, at the goal.
        if code != "episode_ended":
            self.ledger.unretryable[code] += 1
        episode.lost = code


def differs_from_reference(episode: Episode) -> bool:
    """Whether any acknowledged answer, of any of its episodes, is not what a single process gives."""
    env_id = interface.initialize_environment(ENV_NAME, seed=episode.seed, env_kwargs=KWARGS)
    try:
        for seed, actions, digests in [*episode.earlier, (episode.seed, episode.actions, episode.digests)]:
            interface.reset(env_id, seed=seed)
            for action, digest in zip(actions, digests, strict=True):
                if digest_of(orjson.loads(orjson.dumps(list(interface.step(env_id, action))))) != digest:
                    return True
        return False
    finally:
        interface.close_environment(env_id)
