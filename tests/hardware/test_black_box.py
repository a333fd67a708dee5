"""The black box: what was written comes back, whatever happened to its writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robotest.errors import RobotestError
from robotest.hardware.control.black_box import RECORD, BlackBox, Entry, read
from robotest.hardware.robot import RobotState, Setpoint

HEADER = 4096


def entry(k: int, sent: bool = True, measured: bool = True) -> Entry:
    joints = np.arange(14.0).reshape(2, 7) + k / 1000
    state = RobotState(
        joints + 0.5,
        np.array([0.25, 0.75]),
        joints / 2,
        joints,
        np.ones((2, 7), bool),
        False,
        (),
        np.array([k, k + 0.5]),
    )
    return Entry(
        0.01 * k,
        "following",
        k // 10,
        k % 10,
        Setpoint(joints, np.array([0.5, 1.0])) if sent else None,
        state if measured else None,
        "emergency_stop" if k % 7 == 3 else None,
    )


def written(path: Path, entries: int, ticks: int) -> Path:
    box = BlackBox(path, ticks)
    for k in range(entries):
        box.write(entry(k))
    box.close()
    return path


def test_written_ticks_are_read_back(tmp_path: Path) -> None:
    ticks = read(written(tmp_path / "box", 25, 100))
    assert len(ticks) == 25
    np.testing.assert_array_equal(ticks["index"], np.arange(1, 26))
    for k, tick in enumerate(ticks):
        one = entry(k)
        assert one.sent is not None
        assert one.state is not None
        assert (tick["time"], tick["mode"], tick["chunk"], tick["step"]) == (one.time, b"following", k // 10, k % 10)
        assert tick["fault"] == (b"emergency_stop" if k % 7 == 3 else b"")
        np.testing.assert_array_equal(tick["sent"], one.sent.joints)
        np.testing.assert_array_equal(tick["sent_openings"], one.sent.openings)
        np.testing.assert_array_equal(tick["measured"], one.state.joints)
        np.testing.assert_array_equal(tick["openings"], one.state.openings)
        np.testing.assert_array_equal(tick["currents"], one.state.currents.astype(np.float32))
        np.testing.assert_array_equal(tick["stamps"], one.state.stamps)


def test_missing_set_points_and_measurements_are_nan(tmp_path: Path) -> None:
    box = BlackBox(tmp_path / "box", 4)
    box.write(entry(0, sent=False))
    box.write(entry(1, measured=False))
    box.close()
    first, second = read(tmp_path / "box")
    assert np.isnan(first["sent"]).all()
    assert np.isnan(first["sent_openings"]).all()
    assert not np.isnan(first["measured"]).any()
    assert np.isnan(second["measured"]).all()
    assert np.isnan(second["stamps"]).all()
    assert not np.isnan(second["sent"]).any()


def test_an_empty_box_holds_nothing(tmp_path: Path) -> None:
    assert len(read(written(tmp_path / "box", 0, 10))) == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(0, 40))
def test_the_ring_keeps_the_newest_in_their_order(tmp_path: Path, ticks: int, entries: int) -> None:
    found = read(written(tmp_path / "box", entries, ticks))
    np.testing.assert_array_equal(found["index"], np.arange(max(0, entries - ticks) + 1, entries + 1))
    np.testing.assert_array_equal(found["time"], 0.01 * (found["index"].astype(np.int64) - 1))


def test_the_file_is_as_large_from_the_start_as_it_will_ever_be(tmp_path: Path) -> None:
    path = tmp_path / "box"
    box = BlackBox(path, 50)
    size, blocks = path.stat().st_size, path.stat().st_blocks
    assert size == HEADER + 50 * RECORD.itemsize
    assert 512 * blocks >= size, "room that is only promised can be gone later"
    for k in range(120):
        box.write(entry(k))
    assert path.stat().st_size == size
    box.close()


@pytest.mark.parametrize("offset", range(0, RECORD.itemsize, 37))
def test_a_torn_record_is_left_out_and_the_others_are_not(tmp_path: Path, offset: int) -> None:
    path = written(tmp_path / "box", 12, 8)
    data = bytearray(path.read_bytes())
    data[HEADER + 2 * RECORD.itemsize + offset] ^= 0x40
    path.write_bytes(data)
    assert read(path)["index"].tolist() == [5, 6, 7, 8, 9, 10, 12]


def test_a_record_half_of_which_is_the_one_before_is_torn(tmp_path: Path) -> None:
    path = written(tmp_path / "box", 8, 8)
    before = path.read_bytes()
    after = written(tmp_path / "other", 9, 8).read_bytes()
    half = HEADER + RECORD.itemsize // 2
    path.write_bytes(after[:half] + before[half:])
    assert read(path)["index"].tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_bytes_that_were_never_written_are_no_tick(tmp_path: Path) -> None:
    path = written(tmp_path / "box", 3, 8)
    data = path.read_bytes()
    path.write_bytes(data[:HEADER] + data[HEADER:].replace(b"following", b"holdings!"))
    assert len(read(path)) == 0


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"robotest black"])
def test_another_file_is_no_black_box(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "box"
    path.write_bytes(content)
    with pytest.raises(RobotestError, match="box is not a black box"):
        read(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match="box: No such file or directory"):
        read(tmp_path / "box")


@pytest.mark.parametrize("size", [30, 4000, HEADER, HEADER + 10, HEADER + 3 * RECORD.itemsize + 100])
def test_a_truncated_box_is_read_as_far_as_possible_or_refused(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "box", 8, 8)
    path.write_bytes(path.read_bytes()[:size])
    if size < HEADER:
        with pytest.raises(RobotestError, match="box"):
            read(path)
    else:
        assert len(read(path)) == (size - HEADER) // RECORD.itemsize


def test_a_missing_folder_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match=r"needs \d+ MiB: No such file or directory$") as caught:
        BlackBox(tmp_path / "nowhere" / "box")
    assert "\n" not in str(caught.value)


def test_a_box_is_read_while_it_is_written(tmp_path: Path) -> None:
    box = BlackBox(tmp_path / "box", 20)
    for k in range(5):
        box.write(entry(k))
        assert len(read(tmp_path / "box")) == k + 1
    box.close()


WRITER = """
import sys
from pathlib import Path
from tests.hardware.test_black_box import entry
from robotest.hardware.control.black_box import BlackBox
box = BlackBox(Path(sys.argv[1]), 1000)
k = 0
while True:
    box.write(entry(k))
    k += 1
    print(k, flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "box"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= 1500:
            break
    os.kill(writer.pid, signal.SIGKILL)
    indices = [int(line), *map(int, writer.stdout.read().split())]
    writer.wait()
    writer.stdout.close()
    found = read(path)["index"]
    # The one being written when it was killed may be there, may be torn, and may have replaced the oldest.
    assert found[-1] in (indices[-1], indices[-1] + 1)
    assert found[0] in (indices[-1] - 999, indices[-1] - 998)
    assert np.all(np.diff(found.astype(np.int64)) == 1)


LIMITED = """
import resource, sys
from pathlib import Path
from robotest.errors import RobotestError
from robotest.hardware.control.black_box import BlackBox
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    BlackBox(Path(sys.argv[1]))
except RobotestError as error:
    print(error)
"""


@pytest.mark.slow
def test_no_room_is_found_at_the_start_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "box"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.endswith("MiB: File too large\n")
    assert done.stdout.count("\n") == 1
    assert not path.exists(), "a file that takes up what little room there is, and that read() cannot read"
