from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from robotest.randomness import EpisodeSeeds
from robotest.runtime import wire
from robotest.runtime.messages import (
    Chunk,
    ChunkRequest,
    EpisodeEnded,
    Failed,
    FromPool,
    FromWorker,
    Hello,
    Refused,
    RunRequest,
    SpecReply,
    SpecRequest,
    SuiteReply,
    SuiteRequest,
    from_pool,
    from_worker,
    to_wire,
)
from robotest.runtime.rollout import Attempt, Origin, Trace
from robotest.runtime.runner import SuiteInfo
from robotest.types import Context, EnvOptions
from tests.doubles.fakes import PointEnv

OPTIONS = EnvOptions(image_size=16, cameras=("top",), env_args=("size=5",))
SEEDS = EpisodeSeeds(2**63, "near", 3, 1)
CHUNK = np.arange(18, dtype=np.float32).reshape(6, 3)
ORIGIN = Origin(np.arange(7.0), 2, Context(4, CHUNK, 1))


def trace() -> Trace:
    return Trace(
        instruction="reach",
        snapshots=[np.arange(7.0), np.arange(7.0) + 1],
        actions=[CHUNK[0]],
        success=[True],
        rewards=[0.5],
        decision_steps=[0],
        start={"state[4]": "ab12"},
        frames=[(0, b"jpeg")],
    )


def observe() -> Any:
    env = PointEnv("near", EnvOptions(image_size=16))
    env.reset(1, 0)
    return env.observe()


def assert_equal(a: object, b: object) -> None:
    """Compare dataclasses field by field, arrays by their numbers, and lists by their items."""
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, dict) and isinstance(b, dict):
        assert_equal(list(a.items()), list(b.items()))
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize(
    "message",
    [
        SuiteRequest("fake"),
        SpecRequest("fake", "near", OPTIONS),
        RunRequest("fake", SEEDS, OPTIONS, 4, ORIGIN, film=True),
        RunRequest("fake", SEEDS, EnvOptions(), 4, None, film=False),
        Chunk(CHUNK),
        Refused(),
    ],
)
def test_a_pools_message_arrives_as_it_was_sent(message: FromPool) -> None:
    assert_equal(from_pool(wire.unpack(wire.pack(to_wire(message)))), message)


@pytest.mark.parametrize(
    "message",
    [
        Hello(2, "0.1.0", 7),
        SuiteReply(SuiteInfo(("near", "far"), ("plain",), ("tip",))),
        SpecReply(PointEnv("near", EnvOptions(image_size=16)).spec),
        ChunkRequest(observe(), 3),
        EpisodeEnded(Attempt("success", None, "", 1.5), trace()),
        EpisodeEnded(Attempt("error", "RuntimeError: no world", "Traceback", 1.5), Trace()),
        Failed("no licence"),
    ],
)
def test_a_workers_message_arrives_as_it_was_sent(message: FromWorker) -> None:
    assert_equal(from_worker(wire.unpack(wire.pack(to_wire(message)))), message)


def test_the_greeting_of_another_version_is_read_with_what_it_has() -> None:
    assert from_worker({"do": "hello", "version": "9.0", "more": 1}) == Hello(None, "9.0", None)


@pytest.mark.parametrize("data", [None, 3, "run", [], {}, {"do": "dance"}, {"do": ["run"]}, {"do": "spec"}])
def test_anything_else_is_an_error(data: object) -> None:
    for read, side in ((from_pool, "pool"), (from_worker, "worker")):
        with pytest.raises(wire.WireError, match=f"is no message of a {side}"):
            read(data)
