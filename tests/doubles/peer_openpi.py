"""Runs in the environment of `make peers`: the real openpi client, or a server that packs as openpi's does."""

import json
import sys

import numpy as np
import websockets.sync.server
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

OBSERVATION = {
    "observation/image": np.zeros((16, 16, 3), np.uint8),
    "observation/state": np.array([0.0, 0.0, 0.3, 0.1]),
    "prompt": "reach the target",
}


def client(port: int, token: str) -> None:
    """Ask with and without the extension, and once wrongly."""
    policy = WebsocketClientPolicy("127.0.0.1", port, token)
    plain = policy.infer(OBSERVATION)
    more = policy.infer({**OBSERVATION, "n_candidates": 3, "noise_seed": 5})
    try:
        policy.infer({"prompt": "nothing else"})
        error = ""
    except RuntimeError as refused:
        error = str(refused)
    told = {
        "metadata": policy.get_server_metadata(),
        "actions": plain["actions"].shape,
        "candidates": more["candidates"].tolist(),
        "error": error,
    }
    print(json.dumps(told))  # noqa: T201 - for the test


def serve() -> None:
    """Speak as openpi's server does, for one client."""
    packer = msgpack_numpy.Packer()

    def talk(connection: websockets.sync.server.ServerConnection) -> None:
        connection.send(packer.pack({"model": "imitation"}))
        for frame in connection:
            seen = msgpack_numpy.unpackb(frame)
            state = np.asarray(seen["observation/state"], np.float64)
            assert seen["observation/image"].shape == (224, 224, 3)
            chunk = np.tile(np.array([state[2], state[3], 0.5]), (4, 1))
            connection.send(packer.pack({"actions": chunk, "server_timing": {"infer_ms": np.float64(1.5)}}))

    with websockets.sync.server.serve(talk, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(server.socket.getsockname()[1], flush=True)  # noqa: T201 - for the test
        server.serve_forever()


if __name__ == "__main__":
    client(int(sys.argv[2]), sys.argv[3]) if sys.argv[1] == "client" else serve()
