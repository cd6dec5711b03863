"""Episodes played by another process, which runs ``python -m verl_agent_env.envs.checker.elsewhere``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from verl_agent_env.envs.checker.report import CheckFailedError
from verl_agent_env.envs.checker.subject import Subject, digest_of, subject_of
from verl_agent_env.envs.registry import EnvSpec, Registry

_TIME_LIMIT_S = 300
_MARK = b"verl-agent-env-digest:"


def digest_elsewhere(subject: Subject, hash_seed: int) -> str:
    """Return the digest of the subject's episodes, played by a new interpreter with another ``PYTHONHASHSEED``.

    Raises:
        CheckFailedError: The other process failed.
    """
    (digest,) = digests_elsewhere([subject], hash_seed)
    return digest


def digests_elsewhere(subjects: Sequence[Subject], hash_seed: int) -> list[str]:
    """Return the digests of several subjects, played by one new interpreter within five minutes for each.

    Raises:
        CheckFailedError: The other process failed.
    """
    orders = orjson.dumps([_order(subject) for subject in subjects], option=orjson.OPT_SERIALIZE_NUMPY)
    variables = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        # Give the other process the same import path.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    time_limit_s = _TIME_LIMIT_S * len(subjects)
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module, the orders go to its input
            [sys.executable, "-m", __name__],
            input=orders,
            env=variables,
            capture_output=True,
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckFailedError(f"another process took more than {time_limit_s} s for the episodes") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or len(answers) != len(subjects):
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise CheckFailedError(f"another process failed at the episodes: {tail[0]}")
    return [answer.removeprefix(_MARK).decode() for answer in answers]


def _order(subject: Subject) -> dict[str, Any]:
    """Return what the other process needs to know of a subject."""
    return {
        "name": subject.spec.name,
        "entry_point": subject.spec.entry_point,
        "presets": dict(subject.spec.presets),
        "kwargs": subject.kwargs,
        "num_steps": subject.num_steps,
        "seeds": subject.seeds,
    }


def main() -> None:
    """Read orders from standard input, play them, and write the digests."""
    for order in orjson.loads(sys.stdin.buffer.read()):
        spec = EnvSpec(order["name"], order["entry_point"], order["presets"])
        kind = Registry({spec.name: spec}).kind(spec.name)
        subject = subject_of(kind, spec, order["kwargs"], order["num_steps"], order["seeds"])
        sys.stdout.buffer.write(b"\n" + _MARK + digest_of(subject.play_all()).encode() + b"\n")


if __name__ == "__main__":
    main()
