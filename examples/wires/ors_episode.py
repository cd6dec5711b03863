"""Play a lake with ORS' own client: python examples/wires/ors_episode.py http://127.0.0.1:8000"""

import asyncio
import os
import sys

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
# Without them, the client would put "sessions." and "api." before the host.
os.environ.update(OPENREWARD_SESSION_URL=url, OPENREWARD_API_URL=url)

from openreward import AsyncOpenReward  # noqa: E402


async def main() -> None:
    client = AsyncOpenReward(api_key="any")
    env = client.environments.get("frozen_lake")
    task = await env.get_task("test", 0)
    async with env.session(task=task) as session:
        for block in await session.get_prompt():
            print(block.text)
        taken = await session.call_tool("move_right", {})
        print(taken.blocks[0].text, taken.reward, taken.finished)
    await client.environments.aclose()


asyncio.run(main())
