"""Episodes played by another process, which runs ``python -m verl_agent_env.envs.checker.elsewhere``."""

from __future__ import annotations

import os
import subprocess
import sys

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
    order = orjson.dumps(
        {
            "name": subject.spec.name,
            "entry_point": subject.spec.entry_point,
            "presets": dict(subject.spec.presets),
            "kwargs": subject.kwargs,
            "num_steps": subject.num_steps,
            "seeds": subject.seeds,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    variables = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        # Give the other process the same import path.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module, the order goes to its input
            [sys.executable, "-m", __name__],
            input=order,
            env=variables,
            capture_output=True,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckFailedError(f"another process took more than {_TIME_LIMIT_S} s for the episodes") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not answers:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise CheckFailedError(f"another process failed at the episodes: {tail[0]}")
    return answers[-1].removeprefix(_MARK).decode()


def main() -> None:
    """Read an order from standard input, play it, and write the digest."""
    order = orjson.loads(sys.stdin.buffer.read())
    spec = EnvSpec(order["name"], order["entry_point"], order["presets"])
    kind = Registry({spec.name: spec}).kind(spec.name)
    subject = subject_of(kind, spec, order["kwargs"], order["num_steps"], order["seeds"])
    sys.stdout.buffer.write(b"\n" + _MARK + digest_of(subject.play_all()).encode() + b"\n")


if __name__ == "__main__":
    main()
