"""The attacks themselves: what they find, and that they find it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from loadtests.attacks import ATTACKS, Attack, Attacker
from loadtests.hostile import Target, main, table_of, withstand
from loadtests.processes import serving
from tests.waiting import no_hang


def test_a_server_withstands_attacks_and_the_rows_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--target", "one", "--only", "a page", "--out", str(tmp_path)]) == 0
    rows = orjson.loads((tmp_path / "rows.json").read_bytes())
    assert [row["got"] for row in rows] == ["1 × origin_not_allowed", "1 × host_not_allowed"]
    assert all(row["lost"] == 0 and 0 < row["rss_bytes"] < 600 << 20 for row in rows)
    printed = capsys.readouterr().out
    assert "all bounds held" in printed
    assert "origin_not_allowed" in printed


async def test_what_breaks_a_bound_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get_in(attacker: Attacker) -> None:
        await attacker.initialize("frozen_lake")

    monkeypatch.setattr("loadtests.hostile.MAX_WAIT_P99_S", 0.0)
    monkeypatch.setattr("loadtests.hostile.MAX_RSS_BYTES", 1)
    with serving() as server:
        pids = iter([[server.pid, -1]])
        target = Target("server", server.port, "", lambda: next(pids, [server.pid]), is_alone=False)
        async with no_hang():
            row = await withstand(target, Attack("comes in", lambda: get_in, frozenset({"unauthorized"})))
    assert "the attacker got ok" in row.broken
    assert any("waited" in sentence for sentence in row.broken)
    assert any("MB" in sentence for sentence in row.broken)
    assert any("ended" in sentence for sentence in row.broken)
    assert table_of(target, [row]).row_count == 1


async def test_an_attacker_notes_each_kind_of_answer() -> None:
    silent = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if b"closed" in line:
            writer.close()
            return
        body = b'{"code":"refused"}' if b"refused" in line else b'{"errors":[{"code":"item"}]}'
        status = b"403 Forbidden" if b"refused" in line else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    attacker = Attacker(port, "t")
    async with no_hang():
        for path in ("/ok", "/refused", "/closed"):
            await attacker.call(path)
    silent.set()
    server.close()
    await server.wait_closed()
    await attacker.call("/nobody")
    assert dict(attacker.got) == {"ok": 1, "item": 1, "refused": 1, "closed": 2}


def test_every_attack_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert all(attack.may_get for attack in ATTACKS)
