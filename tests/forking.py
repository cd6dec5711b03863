"""The process that loads the package once and forks a server for each request; see ``preloaded.py``.

Its standard input is the socket over which it is asked. A program of its own, which imports nothing of the tests: where it
runs, another package may be called so.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import selectors
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

_MAX_REQUEST_BYTES = 1 << 17


def main() -> None:
    """Start what is asked for, until nobody is there who could ask."""
    # As for ``python -m``.
    sys.path[0] = str(Path.cwd())
    import verl_agent_env.cli.serve
    import verl_agent_env.cluster.redis.store
    import verl_agent_env.envs.mcp_chat.configuration
    import verl_agent_env.server.cluster.http_peers
    import verl_agent_env.server.process.pool  # noqa: F401
    from verl_agent_env.envs.base import ChatEnv
    from verl_agent_env.envs.fingerprint import fingerprint_of

    # Reads all files of the package, once.
    fingerprint_of(ChatEnv)
    gc.collect()
    gc.freeze()
    asked = _fork_until_nobody_asks()
    if asked is not None:
        _become(*asked)


def _fork_until_nobody_asks() -> tuple[list[int], dict[str, Any]] | None:
    """Fork for each request. In the child: the descriptors of its standard output and error, and the request."""
    with socket.socket(fileno=0) as requests, selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fileobj)
                    _tell_end(key.fd, *key.data)
                    continue
                request, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 3)
                if not request:
                    return None
                *outputs, telling = descriptors
                pid = os.fork()
                if pid == 0:
                    return outputs, json.loads(request)
                for output in outputs:
                    os.close(output)
                os.write(telling, b"%d\n" % pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, telling))


def _tell_end(pidfd: int, pid: int, telling: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # Whoever asked may be gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(telling, b"%d\n" % code)
    os.close(telling)
    os.close(pidfd)


def _end_like_a_process(ended: SystemExit | None) -> NoReturn:
    """End as Python does, but for taking apart what was loaded.

    That would copy all memory that is shared with what forked this process: twice the work of starting a server and ending it.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    # What was left behind is told, as of tasks that were not awaited.
    gc.collect()
    code = None if ended is None else ended.code
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _become(outputs: list[int], request: dict[str, Any]) -> None:
    """In the child: be as a process that was started with these arguments and variables, and run."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    # The socket was 0, and is closed.
    assert os.open(os.devnull, os.O_RDONLY) == 0
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    if request["is_python"]:
        _run_python(request["arguments"])
        return
    sys.argv = ["verl-agent-env", *request["arguments"]]
    from verl_agent_env.cli import main as run

    ended = None
    try:
        run()
    except SystemExit as raised:
        ended = raised
    _end_like_a_process(ended)


def _run_python(arguments: Sequence[str]) -> None:
    """Be as ``python`` with these arguments: ``-W error`` or nothing, then ``-c`` and code, ``-m`` and a module, or a file."""
    if arguments[:2] == ["-W", "error"]:
        warnings.simplefilter("error")
        arguments = arguments[2:]
    if arguments[0] == "-c":
        sys.path[0], sys.argv = "", ["-c", *arguments[2:]]
        code = compile(arguments[1], "<string>", "exec")
        exec(code, {"__name__": "__main__"})  # noqa: S102 - it is a test's
    elif arguments[0] == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(arguments[0]).parent), list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
