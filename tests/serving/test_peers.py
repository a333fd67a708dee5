"""The real clients of other projects against our server, and our clients against what they pack."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robotest.loading import load_policy
from robotest.serving.openpi import OpenpiPolicy
from robotest.serving.server import Address
from robotest.types import EnvOptions
from tests.doubles import fakes, servers
from tests.serving.test_client import SECRET

PEERS = Path(os.environ.get("ROBOTEST_PEERS", servers.ROOT / ".peers")) / "bin" / "python"
DOUBLES = Path(__file__).parents[1] / "doubles"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PEERS.exists(), reason="needs openpi-client and vla-eval in an environment: make peers"),
]


def run(script: str, *arguments: str) -> str:
    """What a script prints there."""
    command = [str(PEERS), "-W", "ignore", str(DOUBLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(script: str) -> Iterator[str]:
    """``HOST:PORT`` of a server there."""
    command = [str(PEERS), "-W", "ignore", str(DOUBLES / script), "serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_real_openpi_client_speaks_to_our_server() -> None:
    with servers.served(fakes.policy(), Address(port=0, token=SECRET)) as where:
        told = json.loads(run("peer_openpi.py", "client", where.rpartition(":")[2], SECRET))
    assert told["metadata"]["policy"] == "fake"
    assert told["actions"] == [6, 3]
    assert np.shape(told["candidates"]) == (3, 6, 3)
    assert "are needed; there are prompt" in told["error"]


def test_our_client_understands_what_openpi_packs() -> None:
    env = fakes.suite.make("near", EnvOptions(image_size=224))
    with serving("peer_openpi.py") as where:
        policy = load_policy(f"openpi://{where}", env.spec)
        assert isinstance(policy, OpenpiPolicy)
        env.reset(1)
        observation = env.observe()
        with contextlib.closing(policy):
            chunks = policy.sample([observation], [0], 2)[0].actions
    wanted = np.array([observation.state[2], observation.state[3], 0.5], np.float32)
    np.testing.assert_array_equal(chunks, np.broadcast_to(wanted, (2, 4, 3)))
