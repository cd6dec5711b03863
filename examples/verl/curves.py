"""Draws how several trainings of train.py went, in one picture.

    python examples/verl/curves.py out/verl/frozen_lake-grpo-* --out curves.png

Each folder's name becomes the name of its curve; the path, if two have the same name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from verl_agent_env.integrations.verl.tiny.learning_curve import curve_of, draw, read_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="in which train.py left its log.jsonl")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture, .png or .svg")
    options = parser.parse_args(arguments)
    names = [folder.resolve().name for folder in options.folders]
    if len(set(names)) < len(names):
        # Equal recipes in different places.
        names = [str(folder) for folder in options.folders]
    curves = {
        name: curve_of(read_log(folder / "log.jsonl"))
        for name, folder in zip(names, options.folders, strict=True)
    }
    for name, curve in curves.items():
        if not curve.steps:
            parser.error(f"{name} has no log.jsonl with a validation: name folders of trainings that began.")
    draw(curves, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
