"""The documents tell the truth: what they show was run, what they name exists, what is made from the code is fresh."""

from __future__ import annotations

import importlib.util
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import orjson
import pytest

from docs import catalogue_pages, chart_values, make_environments
from tests.children import forked_python, python, run
from tests.conftest import StartServer
from tests.waiting import HANG_S
from verl_agent_env.cli import cli
from verl_agent_env.config import (
    ClusterSettings,
    ConnectionLimits,
    HostLimits,
    HttpLimits,
    ServerSettings,
    TlsSettings,
    variable_of,
)
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.errors import all_errors
from verl_agent_env.server import create_app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
MADE = ROOT / "docs" / "environments.md"
HTTP_API = ROOT / "docs" / "http-api.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

COMMANDS = {
    name: command
    for context in [click.Context(cli)]
    for name in cli.list_commands(context)
    if (command := cli.get_command(context, name)) is not None
}

ENV_ID = re.compile(r"[0-9a-f]{3}-[0-9a-f]{32}")
EPISODE_ID = re.compile(ENV_ID.pattern + r"\.\d+")
ENV_NAME = re.compile(r"^(/api/environments)/.+?((?:/(?:splits|tasks))?)$")
RUN_ID = re.compile(r"^(/api/runs)/[^/]+/")
LEFT_OUT = "…"
VOLATILE = {"age_s", "idle_s", "owner", "worker", "at", "began_at", "ended_at"}
"""Fields whose values differ from run to run."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Block(NamedTuple):
    """A block of code in a page."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [
        Block(language, text)
        for language, text in re.findall(
            r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
    ]


def prose_of(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> Iterator[str]:
    """What a reader may type: lines of shell blocks, their comments left out, and code within sentences."""
    for block in blocks_of(page):
        if block.language == "bash":
            yield from (re.sub(r"(^|\s+)#.*", "", line) for line in block.text.splitlines())
    yield from re.findall(r"`([^`\n]+)`", prose_of(page))


def run_python(code: str, **variables: str) -> str:
    done = forked_python("-W", "error", "-c", code, variables=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what is made from the code -----------------------------------------------------------------------------


def test_environments_page_is_fresh() -> None:
    assert MADE.read_text("utf-8") == make_environments.page(), "run 'make docs'"


def test_every_environment_of_the_catalogue_was_checked_and_passed() -> None:
    results = catalogue_pages.read_results()
    for family in FAMILIES:
        found = results[catalogue_pages.package_of(family)]
        listed = {spec.name for spec in family.specs.values()}
        assert listed == found.keys(), f"run 'make catalogue-test ARGS={family.name}'"
        assert [name for name in listed if found[name].failed] == []


def test_pages_of_the_catalogue_are_fresh() -> None:
    for name, page in catalogue_pages.pages().items():
        assert (ROOT / "docs" / name).read_text("utf-8") == page, "run 'make docs'"


def test_table_of_the_charts_values_is_fresh() -> None:
    assert chart_values.PAGE.read_text("utf-8") == chart_values.page(), "run 'make docs'"


def test_pictures_are_fresh() -> None:
    drawn = make_environments.pictures()
    assert drawn
    for name, svg in drawn.items():
        assert (ROOT / "docs" / "images" / name).read_text("utf-8") == svg, "run 'make docs'"


def test_table_of_errors_is_complete() -> None:
    rows = [
        (
            f"| `{error.code}` | {error.status} | {'yes' if error.retryable else 'no'} |",
            (error.__doc__ or "").partition("\n")[0].rstrip(".").replace("``", "`"),
        )
        for error in all_errors()
    ]
    table = re.findall(r"^\| `\w+` \| \d{3} \| .*$", HTTP_API.read_text("utf-8"), re.MULTILINE)
    assert table == [f"{start} {meaning} |" for start, meaning in rows]


def test_every_call_has_an_example() -> None:
    paths = {
        (method.upper(), path)
        for path, methods in create_app().openapi()["paths"].items()
        for method in methods
    }
    shown = set()
    for block in blocks_of(HTTP_API):
        if block.language == "http":
            method, target = block.text.split("\n", 1)[0].split()
            path = ENV_ID.sub("{env_id}", EPISODE_ID.sub("{episode_id}", target.partition("?")[0]))
            path = RUN_ID.sub(r"\1/{run_id}/", path)
            shown.add((method, ENV_NAME.sub(r"\1/{env_name}\2", path)))
    assert paths <= shown


def test_table_of_metrics_is_complete() -> None:
    app = create_app()
    counted = set()
    for family in app.metrics.families(app.env_host):
        counted.add(f"{family.name}_total" if family.type == "counter" else family.name)
    documented = re.findall(r"^\| `(verl_agent_env_\w+)`", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == counted


def test_layers_are_those_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    # What stands in parentheses may be missing, and is not there yet.
    named = [re.findall(r"(?<![(\w])\w+", layer) for layer in layers]
    ascending = enumerate(reversed([packages for packages in named if packages]))
    expected = [(str(number), package) for number, packages in ascending for package in packages]
    table = re.findall(r"^\| (\d+) \| `(\w+)` \|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    assert sorted(table) == sorted(expected)


# --- what is shown was run ----------------------------------------------------------------------------------


def python_examples() -> list[Any]:
    """Blocks of Python that are followed by what they print."""
    found = []
    for page in PAGES:
        blocks = blocks_of(page)
        for nth, (block, after) in enumerate(itertools.pairwise(blocks)):
            if block.language == "python" and after.language == "text":
                found.append(pytest.param(block.text, after.text, id=f"{page.name}-{nth}"))
    return found


@pytest.mark.parametrize(("code", "printed"), python_examples())
def test_python_example_prints_what_is_shown(code: str, printed: str) -> None:
    assert run_python(code) == printed


def test_no_python_example_is_left_out() -> None:
    shown = [block for page in PAGES for block in blocks_of(page) if block.language == "python"]
    # The one more is the environment of CONTRIBUTING.md.
    assert len(shown) == len(python_examples()) + 1


def test_shell_session_of_the_readme_runs(start_server: StartServer) -> None:
    server = start_server()
    session = next(block.text for block in blocks_of(ROOT / "README.md") if "curl" in block.text)
    script = "set -euo pipefail\n" + session.replace("http://127.0.0.1:8000", server.url)
    done = run("bash", "-c", script)
    assert done.returncode == 0, done.stderr
    first, second, closed, batch, run_ = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert (first["reward"], second["reward"], second["done"]) == (-0.1, 10.9, True)
    assert closed == {"message": "Environment closed."}
    assert len(batch["rewards"]) == 3
    assert batch["errors"] == []
    assert run_ == {"closed": 3, "errors": []}


def test_http_examples_are_answered_as_shown(start_server: StartServer) -> None:
    blocks = blocks_of(HTTP_API)
    known: dict[str, str] = {}
    url = start_server("--keep-trajectories", "memory").url
    with httpx.Client(base_url=url, timeout=HANG_S) as client:
        for asked, shown in zip(blocks[::2], blocks[1::2], strict=True):
            assert asked.language == "http"
            head, _, body = with_ids(asked.text, known).partition("\n\n")
            request, *headers = head.splitlines()
            method, target = request.split()
            answer = client.request(
                method, target, content=body.encode(), headers=dict(line.split(": ", 1) for line in headers)
            )
            if shown.language == "json":
                live = orjson.loads(answer.content)
                note_ids(orjson.loads(shown.text), live, known)
                expected = orjson.loads(with_ids(shown.text, known))
                assert (
                    answer.status_code == expected.get("status", 200) if "code" in expected else 200
                ), request
                assert_shows(expected, live, request)
            else:
                assert answer.status_code == 200
                assert_subsequence(shown.text.splitlines(), answer.text.splitlines(), request)


def note_ids(shown: dict[str, Any], live: dict[str, Any], known: dict[str, str]) -> None:
    """Learn which live id stands for which one of the page, from the answers that give ids out."""
    if "message" in shown and "env_id" in shown:
        known[shown["env_id"]] = live["env_id"]
    known.update(zip(shown.get("env_ids", ()), live.get("env_ids", ()), strict=True))


def with_ids(text: str, known: dict[str, str]) -> str:
    return ENV_ID.sub(lambda found: known.get(found[0], found[0]), text)


def assert_shows(shown: Any, live: Any, place: str) -> None:
    """``shown`` is ``live``, but for what was left out."""
    if isinstance(shown, dict):
        assert isinstance(live, dict), place
        assert LEFT_OUT in shown or set(shown) == set(live), place
        for name in set(shown) - {LEFT_OUT} - VOLATILE:
            assert_shows(shown[name], live[name], f"{place} {name}")
    elif isinstance(shown, list) and LEFT_OUT in shown:
        kept = [item for item in shown if item != LEFT_OUT]
        names = [item["name"] for item in kept if "name" in item]
        candidates = [item for item in live if item.get("name") in names] if names else live
        for one, other in zip(kept, candidates, strict=bool(names)):
            assert_shows(one, other, place)
    elif isinstance(shown, list):
        assert len(shown) == len(live), place
        for nth, (one, other) in enumerate(zip(shown, live, strict=True)):
            assert_shows(one, other, f"{place} {nth}")
    else:
        assert shown == live, place


def assert_subsequence(shown: list[str], live: list[str], place: str) -> None:
    if LEFT_OUT not in shown:
        assert shown == live, place
        return
    rest = iter(live)
    assert all(line in rest for line in shown if line != LEFT_OUT), place


@pytest.fixture
def guess_number_site(tmp_path: Path) -> Path:
    """The package of CONTRIBUTING.md, installed as its reader would."""
    blocks = {block.language: block.text for block in blocks_of(ROOT / "CONTRIBUTING.md")}
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "guess_number.py").write_text(blocks["python"])
    (source / "pyproject.toml").write_text(blocks["toml"])
    done = python(
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(source)),
    )
    assert done.returncode == 0, done.stderr
    return site


def test_environment_of_the_guide_passes_its_checks(guess_number_site: Path) -> None:
    code = """
import gymnasium, verl_agent_env
from verl_agent_env.envs.checker import check_environment
report = check_environment("demo/guess_number-v0", num_steps=20)
print(report.failures, report.deterministic, [r.name for r in report.results if r.skipped])
env = gymnasium.make("demo/guess_number-v0", highest=8).unwrapped
env.reset(seed=4)
print([env.step(str(number))[2] for number in range(1, 1 + env._number)].count(True))
"""
    assert run_python(code, PYTHONPATH=str(guess_number_site)) == "[] True ['junk', 'seats']\n1\n"


# --- what is named exists -----------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-").lower() for heading in headings}


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


@each_page
def test_named_paths_exist(page: Path) -> None:
    for path in re.findall(r"`((?:src|tests|docs|loadtests|examples)/[\w./-]*)`", prose_of(page)):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:cli|server|engine|wire|envs|messages)/[\w./-]*)`", prose_of(page)):
        assert (ROOT / "src" / "verl_agent_env" / path).exists(), path


@each_page
def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands_of(page):
        if made := re.match(r"make ([a-z-]+)", command):
            assert made[1] in targets, command


@each_page
def test_named_commands_and_options_exist(page: Path) -> None:
    for command in commands_of(page):
        words = re.split(r"\s*(?:&&|\|)\s*", command)
        for part in words:
            if not re.match(r"verl-agent-env [a-z]", part):
                continue
            name = part.split()[1]
            assert name in COMMANDS, command
            assert_options(part, COMMANDS[name])
    # Options that are named alone, or handed to 'make serve', are those of the server, another command or an example.
    every = {option for command in COMMANDS.values() for option in options_of(command)}
    for script in (ROOT / "examples").rglob("*.py"):
        every |= set(
            re.findall(r'^ +(?:parser\.add_argument\()?"(--[a-z-]+)"', script.read_text(), re.MULTILINE)
        )
    for alone in re.findall(r"`(--[a-z-]+)[^`]*`", prose_of(page)):
        assert alone in every, alone


def assert_options(command_line: str, command: click.Command) -> None:
    for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", command_line):
        assert option in options_of(command), command_line


def options_of(command: click.Command) -> set[str]:
    declared = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    return declared | {"--help", "-h"}


@each_page
def test_named_modules_exist(page: Path) -> None:
    for command in commands_of(page):
        if run := re.search(r"python -m ([\w.]+)", command):
            if run[1].startswith("verl.") and importlib.util.find_spec("verl") is None:
                continue  # tests/integrations/verl/training runs it where verl is installed
            assert importlib.util.find_spec(run[1]) is not None, command


@each_page
def test_named_variables_and_limits_exist(page: Path) -> None:
    fields = {
        name
        for group in (ServerSettings, ClusterSettings, HostLimits, HttpLimits, ConnectionLimits, TlsSettings)
        for name in group.__dataclass_fields__
    }
    variables = {variable_of(name) for name in fields}
    # And those of commands: VERL_AGENT_ENV_TOKEN of 'status' and others.
    variables |= {str(option.envvar) for command in COMMANDS.values() for option in command.params}
    assert set(re.findall(r"VERL_AGENT_ENV_[A-Z_]*[A-Z]", page.read_text("utf-8"))) <= variables


@each_page
def test_named_error_codes_exist(page: Path) -> None:
    codes = {error.code for error in all_errors()}
    for status_and_code in re.findall(r"\b[45]\d\d `([a-z_]+)`", prose_of(page)):
        assert status_and_code in codes
