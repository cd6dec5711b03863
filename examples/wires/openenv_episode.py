"""Play a lake with OpenEnv's own client: python examples/wires/openenv_episode.py http://127.0.0.1:8000"""

import sys

from openenv import GenericEnvClient

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"

with GenericEnvClient(base_url=f"{url}/openenv/frozen_lake").sync() as env:
    begun = env.reset(seed=3, env_kwargs={"desc": ["SFFG"], "is_slippery": False})
    print(begun.observation["text"])
    for seq in range(3):
        # The number makes the step safe to send again: it is applied once.
        taken = env.step({"text": "<action>right</action>", "metadata": {"seq": seq}})
        print(taken.observation["text"], taken.reward, taken.done)
