"""What hostile and careless clients send, and what they may get for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from loadtests.bad_env import COUNTER_NAME

PATIENCE_S = 60.0
"""How long an attacker waits for an answer."""
MEGABYTE = 1024 * 1024
# A body that is refused while it is sent: whether the answer is read before the connection is gone is a race.
REFUSED = frozenset(
    {
        "at_capacity",
        "batch_too_large",
        "body_too_large",
        "body_too_complex",
        "malformed_body",
        "invalid_request",
    }
)
RUN = "hostile"
"""The run of all environments that attackers make."""
_HEAD_BYTES = 65_536
_seeds = itertools.count(1)


@dataclass
class Attacker:
    """A client of a server on the loopback, each of whose requests has a connection of its own."""

    port: int
    token: str
    got: Counter[str] = field(default_factory=Counter)
    """What came back: ``ok``, the code of an error (also of an item), ``closed``, or ``no answer``."""

    async def call(
        self, path: str, body: Any = b"", headers: Mapping[str, str] | None = None, *, authorised: bool = True
    ) -> Any:
        """Send a request and note what comes back; gives the answer's document, if it is one."""
        payload = body if isinstance(body, bytes) else orjson.dumps(body)
        fields = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(payload))}
        if authorised:
            fields["Authorization"] = f"Bearer {self.token}"
        fields |= headers or {}
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return await self.send(head.encode() + b"\r\n" + payload)

    async def send(self, *pieces: bytes, pause_s: float = 0.0) -> Any:
        """Send bytes as they are, one piece after the other, and note what comes back."""
        outcome, document = "closed", None
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_HEAD_BYTES)
                try:
                    await self._write(writer, reader, pieces, pause_s)
                    outcome, document = await _answer(reader)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            outcome = "no answer"
        except (OSError, asyncio.IncompleteReadError):
            pass
        self.got[outcome] += 1
        for error in document.get("errors") or () if isinstance(document, dict) and outcome == "ok" else ():
            self.got[error["code"]] += 1
        return document

    @staticmethod
    async def _write(
        writer: asyncio.StreamWriter, reader: asyncio.StreamReader, pieces: tuple[bytes, ...], pause_s: float
    ) -> None:
        # A server that has heard enough answers before all is sent.
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
                if reader.at_eof():
                    return

    async def initialize(self, env_name: str, **env_kwargs: Any) -> str:
        """The id of a new environment; empty if it was refused."""
        wanted = {"env_name": env_name, "seed": next(_seeds), "env_kwargs": env_kwargs, "run_id": RUN}
        document = await self.call("/api/environment/initialize", wanted)
        return str((document or {}).get("env_id", ""))

    async def step(self, env_id: str, action: Any) -> None:
        """One step; an ``action`` in bytes is a whole body."""
        if env_id:
            body = action if isinstance(action, bytes) else {"action": action}
            await self.call(f"/api/environment/{env_id}/step", body)


async def _answer(reader: asyncio.StreamReader) -> tuple[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if status == 200:
        return "ok", document
    return (document or {}).get("code", f"status {status}"), document


@dataclass(frozen=True)
class Attack:
    """One kind of hostile or careless use."""

    name: str
    prepare: Callable[[], Callable[[Attacker], Awaitable[Any]]]
    """Makes ready what is sent, which can take a while, and gives what carries the attack out."""
    may_get: frozenset[str]
    """What the attacker may get; anything else breaks a bound."""
    ends_workers: int = 0
    """Workers that end by it, each of which another process follows: only a pool withstands such attacks."""


def _at_once(count: int, make: Callable[[Attacker], Awaitable[Any]]) -> Callable[[Attacker], Awaitable[Any]]:
    async def carry_out(attacker: Attacker) -> None:
        await asyncio.gather(*(make(attacker) for _ in range(count)))

    return carry_out


def _posting(path: str, body: Any, **options: Any) -> Callable[[Attacker], Awaitable[Any]]:
    return lambda attacker: attacker.call(path, body, **options)


def _making(env_name: str, **env_kwargs: Any) -> Callable[[Attacker], Awaitable[Any]]:
    return lambda attacker: attacker.initialize(env_name, **env_kwargs)


def _stepping(env_name: str, action: Any, **env_kwargs: Any) -> Callable[[Attacker], Awaitable[Any]]:
    async def carry_out(attacker: Attacker) -> None:
        await attacker.step(await attacker.initialize(env_name, **env_kwargs), action)

    return carry_out


async def _impossible_puzzles(attacker: Attacker) -> None:
    target = 999_983 + next(_seeds)
    await attacker.initialize("countdown", num_numbers=8, number_range=[1, 99], target_range=[target, target])


async def _large_batches(attacker: Attacker) -> None:
    made = await attacker.call(
        "/api/batch/initialize",
        {"env_name": "frozen_lake", "num_envs": 10_000, "env_kwargs": {"size": 8}, "run_id": RUN},
    )
    env_ids = [env_id for env_id in (made or {}).get("env_ids", ()) if env_id]
    body = orjson.dumps({"env_ids": env_ids, "actions": ["left"] * len(env_ids)})
    for _ in range(5):
        await attacker.call("/api/batch/step", body)
    await attacker.call("/api/batch/close", {"env_ids": env_ids})


def _worst() -> tuple[bytes, ...]:
    return (
        b'{"env_ids":[],"actions":[%b]}' % b",".join([b"{}"] * 340_000),
        b'{"env_ids":["%b"],"actions":[]}' % (b"x" * (60 * MEGABYTE)),
        b'{"env_ids":[],"actions":[%b]}' % b",".join([b"[[],[]]"] * 400_000),
        b'{"a":%b}' % (b"[" * 5_000_000),
    )


def _worst_bodies_at_once() -> Callable[[Attacker], Awaitable[Any]]:
    bodies = _worst()

    async def carry_out(attacker: Attacker) -> None:
        await asyncio.gather(*(attacker.call("/api/batch/step", body) for body in bodies * 5))

    return carry_out


async def _silent(attacker: Attacker) -> None:
    await attacker.send(pause_s=0)


async def _dripping_head(attacker: Attacker) -> None:
    head = f"POST /api/batch/step HTTP/1.1\r\nHost: 127.0.0.1:{attacker.port}\r\nX-A: ".encode()
    await attacker.send(head, *([b"a"] * 100), pause_s=0.4)


async def _dripping_body(attacker: Attacker) -> None:
    head = f"POST /api/batch/step HTTP/1.1\r\nHost: 127.0.0.1:{attacker.port}\r\nContent-Length: 60000000\r\n"
    await attacker.send(f"{head}\r\n".encode(), *([b"{"] * 100), pause_s=0.4)


async def _long_head(attacker: Attacker) -> None:
    line = b"X-A: " + b"a" * 8000 + b"\r\n"
    start = f"POST /api/batch/step HTTP/1.1\r\nHost: 127.0.0.1:{attacker.port}\r\n".encode()
    await attacker.send(start, *([line * 8] * (50 * MEGABYTE // len(line * 8))), b"\r\n")


async def _long_trailers(attacker: Attacker) -> None:
    line = b"X-A: " + b"a" * 8000 + b"\r\n"
    fields = f"Host: 127.0.0.1:{attacker.port}\r\nAuthorization: Bearer {attacker.token}\r\nTransfer-Encoding: chunked\r\n"
    start = f"POST /api/batch/step HTTP/1.1\r\n{fields}\r\n2\r\n{{}}\r\n0\r\n".encode()
    await attacker.send(start, *([line * 8] * (50 * MEGABYTE // len(line * 8))), b"\r\n")


async def _long_target(attacker: Attacker) -> None:
    await attacker.send(b"GET /" + b"a" * MEGABYTE + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


async def _deadly_steps(attacker: Attacker) -> None:
    env_ids = [await attacker.initialize(COUNTER_NAME) for _ in range(_DEADLY)]
    for env_id in env_ids * 2:
        await attacker.step(env_id, "exit")


_DEADLY = 3
_CALL = {"type": "function", "function": {"name": "move_up", "arguments": "{}"}}
_EQUATION = "1+2*" * 60 + "1"
_PICTURES = {"dim_room": [40, 40], "tile_px": 64, "observation_mode": "image", "max_actions_per_turn": 5}
_ANSWER = {"type": "exact_match", "answer": "x" * 1000, "normalize": "NFKC"}

ATTACKS = (
    Attack(
        "a page of another site creates an environment",
        lambda: _posting(
            "/api/environment/initialize",
            {"env_name": "frozen_lake"},
            headers={"Origin": "https://evil.example", "Content-Type": "text/plain"},
        ),
        frozenset({"origin_not_allowed"}),
    ),
    Attack(
        "a page calls the server by a name of its own",
        lambda: _posting(
            "/api/environment/initialize",
            {"env_name": "frozen_lake"},
            headers={"Host": "evil.example"},
        ),
        frozenset({"host_not_allowed"}),
    ),
    Attack(
        "8 rooms of 40 x 40 with 20 boxes that need 10,000 pushes",
        lambda: _at_once(
            8, _making("sokoban", dim_room=[40, 40], num_boxes=20, min_pushes=10_000, num_gen_steps=10_000)
        ),
        frozenset({"invalid_env_arguments", "at_capacity"}),
    ),
    Attack(
        "8 puzzles of 8 numbers that nobody can solve",
        lambda: _at_once(8, _impossible_puzzles),
        frozenset({"ok", "invalid_env_arguments", "at_capacity"}),
    ),
    Attack(
        "16 lakes of 64 x 64 with hardly any ice",
        lambda: _at_once(16, _making("frozen_lake", size=64, frozen_prob=0.3)),
        frozenset({"ok", "invalid_env_arguments"}),
    ),
    Attack(
        "100 moves in a turn, each with a picture of 2560 x 2560",
        lambda: _at_once(
            4, _stepping("sokoban", {"role": "assistant", "tool_calls": [_CALL] * 100}, **_PICTURES)
        ),
        frozenset({"ok", "at_capacity", "invalid_env_arguments"}),
    ),
    Attack(
        "8 answers of 250 KB, compared in NFKC",
        lambda: _at_once(8, _stepping("single_turn_chat", "\ufdfa" * 80_000, scorer=_ANSWER)),
        frozenset({"ok", "invalid_env_arguments"}),
    ),
    Attack(
        "1,000 equations in a turn",
        lambda: _at_once(4, _stepping("countdown", "||".join([_EQUATION] * 1000), max_actions_per_turn=1000)),
        frozenset({"ok", "at_capacity"}),
    ),
    Attack(
        "1,000,000 tool calls in a turn",
        lambda: _stepping(
            "frozen_lake",
            b'{"action":{"role":"assistant","tool_calls":[%b]}}'
            % b",".join([orjson.dumps(_CALL)] * 1_000_000),
        ),
        frozenset({"ok"}) | REFUSED,
    ),
    Attack(
        "an expression of 100 MB",
        lambda: _stepping("countdown", b'{"action":"%b1"}' % (b"1+" * (50 * MEGABYTE))),
        frozenset({"ok", "body_too_large"}),
    ),
    Attack(
        "10,000 environments without seeds in one call",
        lambda: _posting(
            "/api/batch/initialize", {"env_name": "sokoban", "seeds": [None] * 10_000, "run_id": RUN}
        ),
        frozenset({"ok"}),
    ),
    Attack(
        "500 environments with a prompt of 1 MB",
        lambda: _posting(
            "/api/batch/initialize",
            {
                "env_name": "single_turn_chat",
                "num_envs": 500,
                "run_id": RUN,
                "env_kwargs": {"task_prompt": "x" * (MEGABYTE - 1000)},
            },
        ),
        frozenset({"ok", "answer_too_large", "invalid_env_arguments"}),
    ),
    Attack(
        "40 MB of {}",
        lambda: _posting(
            "/api/batch/step", b'{"env_ids":[],"actions":[%b]}' % b",".join([b"{}"] * 13_000_000)
        ),
        REFUSED,
    ),
    Attack("the worst bodies, from 20 clients", _worst_bodies_at_once, REFUSED),
    Attack(
        "batches of 10,000, from 4 clients",
        lambda: _at_once(4, _large_batches),
        frozenset({"ok", "at_capacity"}),
    ),
    Attack("200 silent connections", lambda: _at_once(200, _silent), frozenset({"closed", "header_timeout"})),
    Attack(
        "50 heads that drip",
        lambda: _at_once(50, _dripping_head),
        frozenset({"closed", "header_timeout", "status 408"}),
    ),
    Attack(
        "50 bodies without a token that drip",
        lambda: _at_once(50, _dripping_body),
        # Behind nginx, which waits for slow clients itself and asks for no token, there is none yet when patience ends.
        frozenset({"closed", "unauthorized", "body_timeout", "status 408", "no answer"}),
    ),
    Attack(
        "4 heads of 50 MB",
        lambda: _at_once(4, _long_head),
        frozenset({"closed", "headers_too_large", "malformed_head", "status 400", "status 431"}),
    ),
    Attack(
        "4 times 50 MB of trailers",
        lambda: _at_once(4, _long_trailers),
        frozenset(
            {"closed", "headers_too_large", "malformed_head", "status 400", "status 431", "invalid_request"}
        ),
    ),
    Attack(
        "20 targets of 1 MB",
        lambda: _at_once(20, _long_target),
        frozenset({"closed", "url_too_long", "headers_too_large", "status 414", "status 400"}),
    ),
    Attack(
        "3 environments whose step ends its worker, each asked twice",
        lambda: _deadly_steps,
        # Whoever asks for the first time may meet the end itself.
        frozenset({"ok", "environment_ended_worker", "worker_unreachable"}),
        ends_workers=_DEADLY,
    ),
)
"""All of them."""
