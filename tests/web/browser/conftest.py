"""A real browser without a network, and the servers that it visits: one process, a cluster, and one below a path."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.children import ROOT
from tests.cluster.nginx_process import NginxProcess, write_configuration
from tests.conftest import ServerProcess
from tests.ports import free_port
from tests.waiting import HANG_S
from verl_agent_env.cluster.local import LocalCluster

playwright = pytest.importorskip("playwright.sync_api", reason="make web-test installs playwright")

CHROMIUM = shutil.which("chromium")
OFFLINE = ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
_OWN = re.compile(r"http://127\.0\.0\.1:|blob:|data:")
_WIDTHS = {"wide": 1280, "phone": 390}
_BELOW_A_PATH = """
  server {{
    listen 127.0.0.1:{port};
    location /env/ {{
      proxy_pass {upstream}/;
      proxy_set_header Host $http_host;
    }}
  }}
"""


class Visit(NamedTuple):
    """A tab on a server, and what should not have happened in it."""

    page: Any
    url: str
    """Of the server, with a slash at its end."""
    faults: list[str]
    """Errors in the console, exceptions, and requests to anywhere else."""

    def goto(self, address: str) -> None:
        """Open an address of the page."""
        self.page.goto(f"{self.url}web/#/{address}")


Open = Callable[..., Visit]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser for which no name resolves."""
    if CHROMIUM is None:
        pytest.skip("make web-test installs chromium")
    playwright.expect.set_options(timeout=HANG_S * 1000)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OFFLINE, timeout=HANG_S * 1000)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server as it is installed, without the environments of other tests."""
    process = ServerProcess(["--keep-trajectories", "memory"], {})
    yield process
    process.stop()


@pytest.fixture(scope="session")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with an environment whose tools are others after each step."""
    site = tmp_path_factory.mktemp("site")
    info = site / "odd_envs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-envs\nVersion: 1.0\n")
    entry = "odd/narrowing-v0 = tests.web.browser.narrowing_env:NarrowingEnv"
    (info / "entry_points.txt").write_text(f"[verl_agent_env.envs]\n{entry}\n")
    process = ServerProcess(["--keep-trajectories", "memory"], {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"})
    yield process
    process.stop()


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two nodes behind nginx."""
    keeping = ("--keep-trajectories", "redis")
    with LocalCluster(
        tmp_path_factory.mktemp("cluster"), nodes=2, workers=1, serve_options=keeping
    ) as cluster:
        yield f"{cluster.url}/"


@pytest.fixture(scope="session")
def url_below_a_path(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same server behind a proxy that puts a path before its own."""
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    write_configuration(folder, _BELOW_A_PATH.format(port=port, upstream=server.url))
    nginx = NginxProcess(folder, port)
    yield f"http://127.0.0.1:{port}/env/"
    nginx.stop()


@pytest.fixture
def open_tab(chromium: Any) -> Iterator[Open]:
    """A function that opens a tab: ``open_tab(url, width="phone", scheme="dark")``."""
    contexts = []

    def open_one(url: str, width: str = "wide", scheme: str = "light") -> Visit:
        context = chromium.new_context(
            viewport={"width": _WIDTHS[width], "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.set_default_timeout(HANG_S * 1000)
        contexts.append(context)
        page, faults = context.new_page(), []
        page.on(
            "console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda raised: faults.append(str(raised)))
        page.on("request", lambda sent: None if _OWN.match(sent.url) else faults.append(sent.url))
        return Visit(page, url, faults)

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(params=["process", "cluster", "below_a_path"])
def url(request: pytest.FixtureRequest, server: ServerProcess) -> str:
    """Each way in which a server is reached."""
    if request.param == "process":
        return f"{server.url}/"
    return str(request.getfixturevalue("cluster_url" if request.param == "cluster" else "url_below_a_path"))


@pytest.fixture
def shots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures of the pages go: those of the cluster to the documentation with ``WEB_SHOTS=docs/images``."""
    is_cluster = request.node.callspec.params.get("url") == "cluster"
    return Path(os.environ.get("WEB_SHOTS", tmp_path)) if is_cluster else tmp_path
