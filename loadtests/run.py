"""Run a load test without locust's page, with its reports and pictures in one folder.

    python -m loadtests.run climb --host http://127.0.0.1:8080 --max-p99-ms 1000
    python -m loadtests.run climb --own-cluster --stages 1024:20,2048:20,4096:20
    python -m loadtests.run rollout --episodes 2000 --run-time 30s
    python -m loadtests.run batch --episodes 10000 --rounds 1
    python -m loadtests.run episode --episodes 500 --run-time 30s

Options that are not named here go to locust. The exit code is 0 when all thresholds held and 1 when one did not.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import resource
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from loadtests.options import DEFAULT_OUT
from loadtests.plots import draw
from verl_agent_env.cluster.local import LocalCluster

_HERE = Path(__file__).parent
_USERS = {"climb": "RolloutUser", "rollout": "RolloutUser", "batch": "BatchUser", "episode": "EpisodeUser"}
_RAMP_S = 10
_UNUSABLE = 2


def main() -> None:
    """Run, draw, and exit as locust did."""
    parser = _parser()
    options, others = parser.parse_known_args()
    raise_file_limit()
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        if options.own_cluster:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtest-")))
            cluster = stack.enter_context(LocalCluster(folder, nodes=2, workers=2))
            options.host = cluster.url
            nodes = "+".join(str(node.pid) for node in cluster.nodes)
            others += ["--watch", f"nodes={nodes},Redis={cluster.redis.pid},nginx={cluster.nginx.pid}"]
        if not _answers(options.host):
            parser.exit(
                _UNUSABLE,
                f"Nothing takes work at {options.host}. Start a server first, as with 'make cluster'.\n",
            )
        options.out.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run(locust_command(options, others), check=False)
    try:
        pictures = draw(options.out)
    except (ImportError, FileNotFoundError) as missing:
        print(f"No pictures: {missing}")
    else:
        print(f"Reports: {options.out / 'report.html'}, {', '.join(path.name for path in pictures)}")
    sys.exit(ended.returncode)


def locust_command(options: argparse.Namespace, others: list[str]) -> list[str]:
    """What to run for these options; ``others`` are locust's own."""
    files = [_HERE / "locustfile.py", *([_HERE / "climb.py"] if options.what == "climb" else [])]
    command = [
        *(sys.executable, "-m", "locust", "-f", ",".join(map(str, files)), "--headless", "--only-summary"),
        *("--host", options.host, "--out", str(options.out), "--html", str(options.out / "report.html")),
        *("--episodes-per-user", str(options.episodes_per_user)),
    ]
    if options.what == "batch":
        command += ["--batch-size", str(options.episodes), "--users", "1"]
    elif options.what != "climb":
        one = options.episodes_per_user if options.what == "rollout" else 1
        users = math.ceil(options.episodes / one)
        command += ["--users", str(users), "--spawn-rate", str(max(1, users // _RAMP_S))]
    return [*command, *others, _USERS[options.what]]


def raise_file_limit() -> None:
    """Allow as many connections as the system lets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _answers(host: str) -> bool:
    if not host.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(f"{host}/readyz", timeout=10):  # noqa: S310 - its scheme was looked at
            return True
    except (OSError, urllib.error.URLError):
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=list(_USERS), nargs="?", default="climb", help="default: climb")
    parser.add_argument("--host", default="http://127.0.0.1:8080", help="default: %(default)s")
    parser.add_argument("--own-cluster", action="store_true", help="start a cluster of two nodes of two workers for the test, in place of --host")  # fmt: skip
    parser.add_argument("--episodes", type=int, default=10_000, help="at once; climb has --stages (default: %(default)s)")  # fmt: skip
    parser.add_argument("--episodes-per-user", type=int, default=512, help="of climb and rollout (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(DEFAULT_OUT), help="folder of the reports (default: %(default)s)")  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
