from __future__ import annotations

import contextlib
import math
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robotest.runtime.wire import Channel, DisconnectedError, WireError, pack, unpack

NUMBERS = st.one_of(st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False))
DTYPES = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64))
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5))
MESSAGES = st.recursive(
    st.one_of(st.none(), NUMBERS, st.text(), st.binary(), ARRAYS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    pair = [Channel(s) for s in socket.socketpair()]
    yield pair[0], pair[1]
    for channel in pair:
        channel.close()


@given(MESSAGES)
def test_what_is_packed_is_unpacked(message: Any) -> None:
    little = [message] if not isinstance(message, np.ndarray) else [message.astype(message.dtype.newbyteorder("<"))]
    assert same(little[0], unpack(pack(message))) or _has_big_endian(message)


def _has_big_endian(message: Any) -> bool:
    """A message whose arrays come back in the other byte order, with equal numbers."""
    if isinstance(message, np.ndarray):
        return bool(message.dtype.byteorder == ">")
    inner = message.values() if isinstance(message, dict) else message if isinstance(message, list) else ()
    return any(map(_has_big_endian, inner))


def test_layouts_of_memory_do_not_matter() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (array[:, ::2], array.T, array.astype(">f4"), array[:0]):
        back = unpack(pack(view))
        np.testing.assert_array_equal(back, view)
        assert not back.flags.writeable


def test_tuples_and_numpy_numbers_are_understood() -> None:
    assert unpack(pack({"key": ("leverage", "near", 3)})) == {"key": ["leverage", "near", 3]}
    assert unpack(pack(np.float32(0.5))) == np.float32(0.5)
    assert math.isnan(unpack(pack(math.nan)))


@pytest.mark.parametrize(
    "message",
    [object(), {1, 2}, np.array([object()]), np.array(["text"]), np.zeros(2, np.complex64), 2**64, np.longdouble(1)],
)
def test_what_cannot_be_sent_is_said(message: object) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        pack(message)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(data)


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb(["<f4", [2]]) + b"\0" * 7,
        msgpack.packb(["<f4", [-1]]),
        msgpack.packb(["<f4", [2**62, 2**62]]),
        msgpack.packb(["O", [1]]) + b"\0" * 8,
        msgpack.packb(["|V8", [1]]) + b"\0" * 8,
        msgpack.packb(["nonsense", [1]]) + b"\0" * 8,
        msgpack.packb("<f4"),
        b"",
    ],
)
def test_arrays_that_lie_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack(msgpack.packb(msgpack.ExtType(1, body)))


def test_nothing_is_unpickled() -> None:
    for data in (pickle.dumps(socket.socket), msgpack.packb(msgpack.ExtType(2, pickle.dumps(print)))):
        with pytest.raises(WireError):
            unpack(data)


def test_frames_arrive_whole_and_in_order(channels: tuple[Channel, Channel]) -> None:
    here, there = channels
    messages = [{"image": np.full((300, 300, 3), k, np.uint8), "k": k} for k in range(20)]

    def send_all() -> None:
        for message in messages:
            here.send(message)

    sender = threading.Thread(target=send_all)
    sender.start()
    for message in messages:
        assert same(message, there.receive(timeout_s=10))
    sender.join()
    assert there.received_bytes == here.sent_bytes > 20 * 270_000


def test_a_channel_whose_other_side_is_gone_says_so(channels: tuple[Channel, Channel]) -> None:
    here, there = channels
    there.close()
    with pytest.raises(DisconnectedError):
        here.receive()
    with pytest.raises(DisconnectedError):
        here.send(np.zeros(2**22))


def test_a_frame_cut_off_is_a_disconnection() -> None:
    a, b = socket.socketpair()
    a.sendall(struct.pack("<Q", 100) + b"half")
    a.close()
    with pytest.raises(DisconnectedError):
        Channel(b).receive()
    b.close()


def test_waiting_ends(channels: tuple[Channel, Channel]) -> None:
    with pytest.raises(TimeoutError):
        channels[0].receive(timeout_s=0.01)


def test_frames_too_large_are_refused_before_memory_is_taken() -> None:
    a, b = socket.socketpair()
    a.sendall(struct.pack("<Q", 2**60))
    with pytest.raises(WireError, match="at most"):
        Channel(b).receive()
    with pytest.raises(WireError, match="at most"):
        Channel(a, max_frame_bytes=10).send(b"x" * 20)
    a.close()
    b.close()
