"""Load that notices everything: steps environments, sends again what may be sent again, and remembers each answer."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import aiohttp
import orjson

from loadtests import bad_env
from loadtests.chaos.episode import ENV_NAME, KWARGS, Episode
from loadtests.chaos.ledger import Ledger

_PAUSE_S = 0.05
_MISBEHAVE_EVERY_S = 0.5
_TIMEOUT_S = 60.0


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
