"""Draw a load test's timeline: ``python -m loadtests.plots out/loadtest``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from loadtests.measurements import Sample
from loadtests.options import DEFAULT_OUT
from loadtests.verdict import TIMELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (9.0, 4.0)
_DPI = 120


def draw(folder: Path) -> list[Path]:
    """Make ``throughput.png``, ``latency.png`` and ``episodes.png`` from the timeline in the folder.

    Raises:
        ImportError: matplotlib is not installed.
        FileNotFoundError: No load test has left a timeline there.
    """
    samples = [Sample(**sample) for sample in orjson.loads((folder / TIMELINE).read_bytes())["samples"]]
    pictures: dict[str, Callable[[Axes, Sequence[Sample]], None]] = {
        "throughput.png": _throughput,
        "latency.png": _latency,
        "episodes.png": _episodes,
    }
    return [_draw(folder / name, samples, fill) for name, fill in pictures.items()]


def _draw(path: Path, samples: Sequence[Sample], fill: Callable[[Axes, Sequence[Sample]], None]) -> Path:
    # Imported here: only who draws needs it, and it takes its time.
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes: Any = figure.subplots()
    fill(axes, samples)
    axes.set_xlabel("seconds")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", frameon=False)
    figure.savefig(path, dpi=_DPI)
    return path


def _throughput(axes: Axes, samples: Sequence[Sample]) -> None:
    at_s = [sample.at_s for sample in samples]
    axes.plot(at_s, [_rate(sample.steps, sample) for sample in samples], label="steps")
    axes.plot(at_s, [_rate(sample.requests, sample) for sample in samples], label="requests")
    failed = [_rate(sample.failures, sample) for sample in samples]
    axes.plot(at_s, failed, label="failures", color="tab:red")
    axes.set_ylabel("per second")


def _latency(axes: Axes, samples: Sequence[Sample]) -> None:
    stepped = [sample for sample in samples if sample.steps]
    at_s = [sample.at_s for sample in stepped]
    axes.plot(at_s, [sample.p50_ms or 0 for sample in stepped], label="p50")
    axes.plot(at_s, [sample.p95_ms or 0 for sample in stepped], label="p95")
    axes.plot(at_s, [sample.p99_ms or 0 for sample in stepped], label="p99")
    axes.set_ylabel("milliseconds for a step, as its episode sees it")


def _episodes(axes: Axes, samples: Sequence[Sample]) -> None:
    at_s = [sample.at_s for sample in samples]
    axes.plot(at_s, [sample.alive for sample in samples], label="episodes alive")
    axes.set_ylabel("episodes")


def _rate(count: int, sample: Sample) -> float:
    return count / sample.span_s if sample.span_s else 0.0


def main() -> None:
    """Draw and say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(DEFAULT_OUT), help="default: %(default)s"
    )
    for path in draw(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
