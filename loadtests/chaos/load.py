"""Load that notices everything: steps environments, sends again what may be sent again, and remembers each answer."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from loadtests.chaos.client import PAUSE_S, Client
from loadtests.chaos.episode import ENV_NAME, KWARGS, Episode, Say, differs_from_reference
from loadtests.chaos.ledger import Ledger


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
        ttl_s: float | None = None,
        say: Sequence[Say] = (str,),
    ) -> None:
        """Nothing runs yet.

        Args:
            url: Of the cluster.
            episodes: How many environments.
            think_s: How long a client thinks, in the mean, between an answer and its next calls.
            sample: Of how many environments all answers are remembered.
            singles: How many clients step their environments one by one; each has up to fifty.
            batches: How many clients step all others in calls of equal shares.
            ttl_s: How long an environment may idle, if not as long as any.
            say: How moves are sent; environments take turns in it.
        """
        self.client = Client(url)
        self.episodes: list[Episode] = []
        self._size = episodes
        self._think_s = think_s
        self._sample = sample
        self._singles = singles
        self._batches = batches
        self._ttl_s = ttl_s
        self._say = say
        self._run_id = uuid.uuid4().hex
        self._clients: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def ledger(self) -> Ledger:
        """What the clients have seen since it was renewed last."""
        return self.client.ledger

    async def start(self) -> None:
        """Make the environments and begin to step them."""
        seeds = [random.getrandbits(40) for _ in range(self._size)]
        body: dict[str, Any] = {
            "env_name": ENV_NAME,
            "env_kwargs": KWARGS,
            "seeds": seeds,
            "run_id": self._run_id,
        }
        if self._ttl_s is not None:
            body["ttl_s"] = self._ttl_s
        made = await self.client.call("/api/batch/initialize", body)
        if made["errors"]:
            raise RuntimeError(str(made["errors"][0]))
        sampled = set(random.sample(range(self._size), min(self._sample, self._size)))
        self.episodes = [
            Episode(env_id, seed, number in sampled, say=self._say[number % len(self._say)])
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
        old, self.client.ledger = self.ledger, Ledger()
        return old

    async def rounds(self, count: int = 2) -> None:
        """Return when every environment that lives was stepped so many times more."""
        goals = [episode.steps + count for episode in self.episodes]
        while any(e.steps < goal and not e.lost for e, goal in zip(self.episodes, goals, strict=True)):
            for client in self._clients:
                if client.done():
                    client.result()
            await asyncio.sleep(PAUSE_S)

    async def stop(self) -> None:
        """Stop stepping, when each step that was sent has its answer."""
        self._is_stopping = True
        await asyncio.gather(*self._clients)

    async def close(self) -> int:
        """Close all environments; gives how many there were."""
        closed = await self.client.call("/api/batch/close", {"run_id": self._run_id})
        return int(closed["closed"])

    async def end(self) -> None:
        """End all clients, whatever they are at."""
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self.client.close()

    async def differing(self) -> int:
        """How many of the sample gave another answer than a single process, or took another number of steps."""
        chosen = [episode for episode in self.episodes if episode.is_sampled]
        living = [episode for episode in chosen if not episode.lost]
        counts = await self._server_seqs(living)
        miscounted = sum(count != episode.seq for count, episode in zip(counts, living, strict=True))
        # In a thread: other clients go on, and their waits are measured.
        return miscounted + await asyncio.to_thread(lambda: sum(map(differs_from_reference, chosen)))

    @asynccontextmanager
    async def beside(
        self, episodes: int, *, max_stall_s: float, url: str = "", **options: Any
    ) -> AsyncIterator[Load]:
        """Another load, compared by itself in the end; what it sees counts here, but for how long it waits.

        Args:
            episodes: How many environments.
            max_stall_s: How long a step of one may take.
            url: Where it is sent, if not where this one is.
            options: More of a load.
        """
        other = Load(url or self.client.url, episodes, **options)
        try:
            await other.start()
            await other.rounds(1)
            yield other
            await other.rounds(1)
            await other.stop()
            other.ledger.differing = await other.differing()
            await other.close()
        finally:
            await other.end()
        if other.ledger.longest_s > max_stall_s:
            other.ledger.broken.append(f"others stalled {other.ledger.longest_s:.1f} s")
        self.ledger.add(other.ledger)

    async def _server_seqs(self, episodes: list[Episode]) -> list[int | str]:
        """How many steps each environment has taken according to the server; or the code of its error."""
        seqs: list[int | str] = []
        for episode in episodes:
            answer = await self.client.call(f"/api/environment/{episode.env_id}")
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
                    answer = await self.client.call(
                        f"/api/environment/{episode.env_id}/reset", {"seed": episode.seed + 1}
                    )
                    if "code" in answer:
                        self._lose(episode, answer["code"])
                        continue
                    episode.begin()
                body = {"action": episode.next_action(), "seq": episode.seq}
                answer = await self.client.call(f"/api/environment/{episode.env_id}/step", body)
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
            while left:
                left = await self._step_together(left, began)
                if left:
                    await asyncio.sleep(PAUSE_S)
            await self._think()

    async def _begin_together(self, episodes: list[Episode]) -> None:
        """Begin another episode in all of them."""
        while episodes:
            body = {"env_ids": [e.env_id for e in episodes], "seeds": [e.seed + 1 for e in episodes]}
            answer = await self.client.call("/api/batch/reset", body)
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
        answer = await self.client.call("/api/batch/step", body)
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
