"""What the recipe says of its arguments, and how many environments a training left open, asked of a cluster that may be starting."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import orjson
import pytest

from tests.children import ROOT

pytest.importorskip("hydra", reason="verl is not installed: make verl-test")
pytest.importorskip("matplotlib", reason="verl is not installed: make verl-test")


class _Starting(BaseHTTPRequestHandler):
    """Answers 503 twice, then that one environment is live, then none."""

    said: ClassVar[Iterator[int | None]] = iter(())

    def do_GET(self) -> None:
        live = next(self.said)
        self.send_response(503 if live is None else 200)
        self.end_headers()
        self.wfile.write(orjson.dumps({"nodes": [{"workers": [{"live_envs": live}]}]}))

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@pytest.fixture
def url() -> Iterator[str]:
    """URL of a cluster that is starting."""
    handler = type("Handler", (_Starting,), {"said": iter((None, None, 1, 0))})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``examples/verl/train.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/verl"))
    return importlib.import_module("train")


def test_it_asks_again_until_a_cluster_answers_and_the_environments_are_closed(
    recipe: ModuleType, url: str
) -> None:
    assert recipe.open_environments(url) == 0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("warm_start.threads=1", "To append to your config use +warm_start.threads=1"),
        ("trainer.total_training_step=2", "total_training_step"),
        ("warm_start", "warm_start"),
        ("curation.noise=[0.1", "at input '[0.1'"),
        ("device=tpu", "Could not find 'device/tpu'"),
    ],
)
def test_an_override_that_does_not_fit_is_told_in_a_sentence(
    recipe: ModuleType, override: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        recipe.main(["frozen_lake", "--out", str(tmp_path / "out"), override])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
