"""Several trainings become one picture."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson

from tests.children import ROOT, forked_python


def curves(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked_python(str(ROOT / "examples/verl/curves.py"), *arguments)


def training(folder: Path, *success: float) -> str:
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "data": {"val-aux/verl_env/sokoban-v0/success/mean@1": share}}
        for step, share in enumerate(success)
    ]
    (folder / "log.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return str(folder)


def test_each_folder_becomes_a_curve_of_its_name(tmp_path: Path) -> None:
    folders = [
        training(tmp_path / "sokoban-grpo-1", 0.2, 0.5),
        training(tmp_path / "sokoban-ppo-1", 0.2, 0.6),
    ]
    picture = tmp_path / "curves.svg"
    done = curves(*folders, "--out", str(picture))
    assert done.returncode == 0, done.stderr
    drawn = picture.read_text()
    # Text is drawn as outlines, each with its words as a comment.
    assert "<!-- sokoban-grpo-1, sampled -->" in drawn
    assert "<!-- sokoban-ppo-1, greedy -->" in drawn


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [training(tmp_path / place / "lake-1", 0.2, 0.5) for place in ("a", "b")]
    done = curves(*folders, "--out", str(tmp_path / "curves.svg"))
    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "curves.svg").read_text()
    assert all(f"<!-- {folder}, sampled -->" in drawn for folder in folders)


def test_a_folder_without_a_training_is_named(tmp_path: Path) -> None:
    done = curves(training(tmp_path / "begun"), "--out", str(tmp_path / "curves.png"))
    assert done.returncode == 2
    assert "begun has no log.jsonl with a validation" in done.stderr
    assert not (tmp_path / "curves.png").exists()
