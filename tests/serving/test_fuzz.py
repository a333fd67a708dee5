"""Frames of peers that are not trusted: whatever arrives, the answer is a message or an error of one line, at once."""

from __future__ import annotations

import contextlib
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import connect

from robotest.errors import RobotestError
from robotest.loading import load_policy
from robotest.runtime.wire import WireError, pack
from robotest.serving import openpi, protocol, vla_eval
from robotest.serving.client import RemotePolicy
from robotest.serving.dialect import Frame, Question, Sampled, Session
from robotest.serving.frames import MAX_ITEMS, unpack
from robotest.serving.pictures import encode
from robotest.serving.protocol import SampleRequest
from robotest.specs import PolicySpec
from robotest.types import EnvOptions
from tests.doubles import fakes
from tests.doubles.servers import served
from tests.doubles.thorough import THOROUGH
from tests.serving.test_protocol import seen

SPEC = fakes.policy().spec
FRAMES = 1_000_000 if THOROUGH else 4_000
SLOWEST_S = 1.0

_candidates = fakes.policy().sample([seen()], [1], 2)
_vla_eval = {"images": {"top": seen().images["top"]}, "states": seen().state, "task_description": "go"}
_picture = {"__image__": True, "format": "png", "data": encode(seen().images["top"], "png"), "shape": [16, 16, 3]}
_openpi = {openpi.IMAGE: seen().images["top"], openpi.STATE: seen().state, openpi.PROMPT: "go"}
VALID: dict[str, list[bytes]] = {
    "robotest": [
        protocol.greet(SPEC),
        protocol.ask(SampleRequest((seen(),), (7,), 2)),
        protocol.ask(SampleRequest((seen(), seen()), (7, 8), 2), "png"),
        protocol.ask(SampleRequest((seen(),), (7,), 2), "jpeg"),
        protocol.answer(Sampled(tuple(_candidates), 0.1)),
        protocol.fail("no"),
    ],
    "openpi": [
        openpi.pack(_openpi),
        openpi.pack({**_openpi, "n_candidates": 3, "noise_seed": 2**63}),
        msgpack.packb({b"x": {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f8"}}),
    ],
    "vla-eval": [
        vla_eval.pack("hello", {"protocol_version": 1}, 1),
        vla_eval.pack("episode_start", {"task": {"name": "near"}}, 2),
        vla_eval.pack("observation", _vla_eval, 3),
        vla_eval.pack("observation", {**_vla_eval, "images": {"top": _picture}}, 4),
        vla_eval.pack("action", {"actions": np.zeros((6, 3), np.float32)}, 5),
        vla_eval.pack("error", {"error": "no"}, 6),
    ],
}
SESSIONS: list[Callable[[PolicySpec], Session]] = [
    protocol.RobotestSession,
    openpi.OpenpiSession,
    vla_eval.VlaEvalSession,
]
READERS: list[Callable[[Frame], object]] = [
    protocol.read_greeting,
    protocol.read_answer,
    vla_eval.read,
    lambda frame: vla_eval._require_fits("", vla_eval.read(frame)[1], fakes.suite.make("near", EnvOptions()).spec),
    *(session(SPEC).receive for session in SESSIONS),
]
SPITEFUL = [
    b"\x00",
    b"\xff",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",  # a list of 4 billion
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x91" * 5_000,
    b"\x81\xa1a" * 3_000,
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
    b"\xcf" + b"\xff" * 8,
    msgpack.packb({"__ndarray__": True, "dtype": "|O", "shape": [1], "data": b"\x01" * 8}),
    msgpack.packb({b"__ndarray__": True, b"dtype": "<f4", b"shape": [2**62, 4], b"data": b""}),
    msgpack.packb({b"__ndarray__": True, b"dtype": "<f4", b"shape": [0] * 40, b"data": b""}),
    msgpack.packb({b"__ndarray__": True, b"dtype": "(1000000,1000000)f4", b"shape": [1], b"data": b"abcd"}),
    msgpack.packb(msgpack.ExtType(1, b"\x92\xa2|O\x91\x01" + b"\x01" * 8)),
    msgpack.packb(msgpack.ExtType(1, b"")),
    msgpack.packb(msgpack.Timestamp(1)),
]

_array = {"__ndarray__": True, "dtype": "<f4", "shape": [9, 9], "data": bytes(324)}
TALKATIVE = [
    msgpack.packb({"two\nlines": 1}),
    msgpack.packb({"image": {**_array, "shape": [{"x": _array}]}}),
    msgpack.packb({"do": "sample", "observations": [{}], "noise_seeds": [_array], "n_candidates": [_array]}),
    msgpack.packb({"do": _array, "text": "", "candidates": [], "seconds": 0.1}),
    msgpack.packb({"__image__": True, "format": _array, "data": b""}),
    vla_eval.pack("hello", {"action_spec": {"tip": {"dims": _array, "format": _array}}}, 1),
    vla_eval.pack("hello", {"observation_spec": {"state": {"dims": _array, "format": _array}}}, 1),
    msgpack.packb({"protocol": 1, "robotest": "", "policy": {"two\nlines": _array, "cameras": {}}}),
    vla_eval.pack("hello", {"protocol_version": _array}, 1),
    vla_eval.pack("two\nlines", {}, 1),
]
"""What errors must not quote at length, or in several lines."""


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """A frame with a few bytes changed, cut, doubled, or replaced by spite."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] = rng.randrange(256)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + rng.randint(1, 16)]
            case 3:
                data[at:at] = rng.choice(SPITEFUL)
            case 4:
                length = rng.randint(1, 8)
                data[at : at + length] = rng.randbytes(length)
            case _:
                other = rng.choice([frame for frames in VALID.values() for frame in frames])
                data[at:at] = other[: rng.randrange(len(other))]
    return bytes(data)


def require_harmless(frame: Frame) -> None:
    for read in READERS:
        began = time.perf_counter()
        try:
            result: object = read(frame)
        except RobotestError as error:
            result = str(error)
        assert not isinstance(result, str) or (len(result) < 2_000 and "\n" not in result), repr(result)
        if isinstance(result, Question):
            fakes.policy().sample(result.observations, result.noise_seeds, 1)
        assert time.perf_counter() - began < SLOWEST_S, frame[:100]


@pytest.mark.slow
def test_mutated_frames_of_every_dialect_do_no_harm() -> None:
    rng, valid = random.Random(0), [frame for frames in VALID.values() for frame in frames]
    for frame in [*valid, *SPITEFUL, *TALKATIVE, "", "text", "\x00"]:
        require_harmless(frame)
    for _ in range(FRAMES):
        require_harmless(mutated(rng, rng.choice(valid)))


@pytest.mark.slow
@pytest.mark.parametrize("path", [protocol.PATH, openpi.PATH, vla_eval.PATH])
def test_a_server_goes_on_after_any_frames(path: str) -> None:
    rng, valid = random.Random(1), [frame for frames in VALID.values() for frame in frames]
    with served(fakes.policy()) as where:
        with connect(f"ws://{where}{path}", compression=None) as connection:
            for _ in range(300):
                connection.send(mutated(rng, rng.choice(valid)))
            with contextlib.suppress(TimeoutError):
                while connection.recv(timeout=0.5):
                    pass
        policy = load_policy(f"ws://{where}")
        assert isinstance(policy, RemotePolicy)
        with contextlib.closing(policy):
            policy.sample([seen()], [1], 2)


NAMES = (
    "do observations images state states noise_seeds n_candidates prompt observation/state observation/image type",
    "payload seq task_description context policy protocol candidates actions __ndarray__ __image__ dtype shape data",
)
KEYS = st.sampled_from([name for line in NAMES for name in line.split()])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(["sample", "sampled", "<f4", "|u1", "|O", "observation"]),
)


@given(
    st.dictionaries(
        KEYS,
        st.recursive(
            VALUES,
            lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
            max_leaves=8,
        ),
        max_size=6,
    )
)
def test_maps_of_known_keys_and_any_values_do_no_harm(message: dict[str, Any]) -> None:
    require_harmless(msgpack.packb(message))


@pytest.mark.parametrize("frame", SPITEFUL)
def test_spite_is_no_message(frame: bytes) -> None:
    with pytest.raises(WireError):
        unpack(frame)


def test_numbers_come_as_in_every_dialect() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    parts = {"dtype": "<f4", "shape": [2, 3], "data": array.tobytes()}
    in_text = {"__ndarray__": True, **parts}
    in_bytes = {b"__ndarray__": True, **{key.encode(): value for key, value in parts.items()}}
    for sent in (msgpack.packb({"a": in_text}), msgpack.packb({"a": in_bytes}), pack({"a": array})):
        back = unpack(sent)["a"]
        np.testing.assert_array_equal(back, array)
        assert not back.flags.writeable
    assert unpack(msgpack.packb({"a": {b"__npgeneric__": True, b"data": 2, b"dtype": "<i8"}})) == {"a": 2}


def test_a_frame_of_few_bytes_takes_little_memory() -> None:
    """A byte of an empty map is 64 bytes in memory, and lists of lists of them are counted too."""
    for many in (b"\x80" * MAX_ITEMS, b"\xc0" * MAX_ITEMS):
        one = b"\xdd" + struct.pack(">I", MAX_ITEMS) + many
        frame = b"\x81\xa1a\xdc" + struct.pack(">H", 20) + one * 20
        tracemalloc.start()
        with pytest.raises(WireError, match="more than"):
            unpack(frame)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 * 2**20
