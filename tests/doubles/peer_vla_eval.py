"""Runs in the environment of `make peers`: vla-eval's real client, or one of its model servers."""

import json
import sys

import anyio
import numpy as np
from vla_eval.connection import Connection
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve_async
from vla_eval.specs import RAW, DimSpec


async def client(url: str) -> None:
    """Run two short episodes."""
    async with Connection(url, timeout=10, max_retries=1) as connection:
        observation = {
            "images": {"top": np.zeros((16, 16, 3), np.uint8)},  # sent as PNG
            "states": np.array([0.0, 0.0, 0.3, 0.1], np.float32),
            "task_description": "reach the target",
        }
        actions = []
        for _ in range(2):
            await connection.start_episode({"task": {"name": "near"}})
            actions.append([(await connection.act(observation))["actions"].tolist() for _ in range(3)])
            await connection.end_episode({"success": True})
        try:
            await connection.act({"images": {}})
            error = ""
        except RuntimeError as refused:
            error = str(refused)
        print(json.dumps({"hello": connection.server_info, "actions": actions, "error": error}))  # noqa: T201 - for the test


class Model(PredictModelServer):  # type: ignore[misc]  # it is Any outside of that environment
    """Answers with what it sees."""

    def predict(self, obs: dict, ctx: object) -> dict:  # type: ignore[type-arg]
        """Return a chunk of the state's first numbers and the picture's size."""
        height = obs["images"]["top"].shape[0]
        return {"actions": np.tile([obs["states"][2], obs["states"][3], height / 1000], (4, 1))}

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Return what it does not say."""
        return {"raw": RAW}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Return what it does not say."""
        return {"state": RAW}


async def serve(chunk_size: int | None) -> None:
    """Serve on any free port."""
    async with anyio.create_task_group() as group:
        port = await group.start(serve_async, Model(chunk_size=chunk_size), "127.0.0.1", 0)
        print(port, flush=True)  # noqa: T201 - for the test


if __name__ == "__main__":
    if sys.argv[1] == "client":
        anyio.run(client, sys.argv[2])
    else:
        anyio.run(serve, int(sys.argv[2]) if len(sys.argv) > 2 else None)
