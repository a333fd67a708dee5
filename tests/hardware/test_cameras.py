"""Cameras: what the watch lets through and what not, and the drivers as far as they run without a camera."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.clock import SimClock, WallClock
from robotest.errors import UnknownNameError
from robotest.hardware.cameras.config import camera_from
from robotest.hardware.cameras.reader import Reader
from robotest.hardware.cameras.realsense import RealSenseCamera
from robotest.hardware.cameras.rendered import RenderedCamera
from robotest.hardware.cameras.replay import ReplayCamera
from robotest.hardware.cameras.v4l2 import V4l2Camera
from robotest.hardware.cameras.watch import Camera, CameraError, Frame, WatchedCamera, fitted, open_all
from tests.doubles.faulty_camera import Faults, FaultyCamera

SIZE = (12, 16)
FPS = 30


def picture(value: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value % 256, np.uint8)


def frame(number: int, host_s: float, device_s: float | None = None, value: int | None = None) -> Frame:
    return Frame(picture(number if value is None else value), host_s, device_s, number)


def advance(clock: SimClock, seconds: float) -> None:
    clock.sleep_until(clock.now() + seconds)


def eventually(happens: Callable[[], bool]) -> None:
    """Wait for another thread."""
    for _ in range(3000):
        if happens():
            return
        time.sleep(0.01)
    pytest.fail("it never happened")


class ScriptedCamera:
    """A camera that returns the frame it is given."""

    name, size = "left wrist", SIZE

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.opened = 0

    def open(self) -> None:
        self.opened += 1

    def latest(self) -> Frame:
        if self.frame is None:
            raise CameraError("no frame")
        return self.frame

    def close(self) -> None:
        self.opened = 0


class Filming:
    """A camera that films at a steady rate, and whose frames take a varying time to arrive."""

    name, size = "main", SIZE

    def __init__(self, clock: SimClock, delay: Callable[[int], float] = lambda _: 0.02, drift: float = 0.0) -> None:
        self._clock, self._delay, self._drift = clock, delay, drift

    def open(self) -> None:
        pass

    def latest(self) -> Frame:
        now = self._clock.now()
        number = int(now * FPS)
        while number and number / FPS + self._delay(number) > now:
            number -= 1
        taken = number / FPS
        return frame(number, taken + self._delay(number), 1000.0 + taken * (1 + self._drift))

    def close(self) -> None:
        pass


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def scripted() -> ScriptedCamera:
    return ScriptedCamera()


@pytest.fixture
def watched(scripted: ScriptedCamera, clock: SimClock) -> WatchedCamera:
    return WatchedCamera(scripted, (6, 6), clock)


def after(watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock, first: Frame, second: Frame) -> Frame:
    """Look at the first frame when it arrives, and at the second when that does."""
    scripted.frame = first
    clock.sleep_until(first.host_s)
    watched.look()
    scripted.frame = second
    clock.sleep_until(second.host_s)
    return watched.look()


# The watch.


def test_a_fresh_frame_is_returned_in_the_policys_size(
    watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock
) -> None:
    seen = after(watched, scripted, clock, frame(1, 1.0, 5.0), frame(4, 1.1, 5.1))
    assert (seen.number, seen.host_s, seen.device_s) == (4, 1.1, 5.1)
    assert seen.image.shape == (6, 6, 3)
    assert np.all(seen.image == 4)


def test_opening_and_closing_reaches_the_camera(watched: WatchedCamera, scripted: ScriptedCamera) -> None:
    watched.open()
    assert (scripted.opened, watched.name) == (1, "left wrist")
    watched.close()
    watched.close()
    assert scripted.opened == 0


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (frame(1, 1.0, 5.0), "nothing newer than frame 1"),
        (frame(1, 1.1, 5.1), "nothing newer than frame 1"),
        (frame(0, 1.1, 5.1), "went back from frame 1 to 0"),
        (frame(2, 0.95, 5.1), r"stamped frame 2 0\.050 s before"),
        (frame(2, 1.1, 5.0), r"frozen: new frames keep its stamp 5\.000"),
        (frame(2, 1.1, 4.9), r"clock that went back by 0\.100 s"),
        (frame(2, 1.5, 5.2), r"came 0\.300 s late, allowed are 0\.1 s"),
        (frame(2, 1.1, 8.1), r"jumped ahead by 3\.000 s"),
        (frame(2, 1.1, float("nan")), "clock cannot be read"),
        (frame(2, 1.1, float("inf")), "clock cannot be read"),
    ],
)
def test_stale_frames_and_frames_that_go_back_are_refused(
    watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock, second: Frame, message: str
) -> None:
    with pytest.raises(CameraError, match=f"^camera 'left wrist' .*{message}"):
        after(watched, scripted, clock, frame(1, 1.0, 5.0), second)


@pytest.mark.parametrize(("age", "fine"), [(0.0, True), (0.0999, True), (0.1001, False), (60.0, False)])
def test_a_frame_may_be_a_tenth_of_a_second_old(
    watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock, age: float, fine: bool
) -> None:
    scripted.frame = frame(1, 1.0)
    clock.sleep_until(1.0 + age)
    if fine:
        assert watched.look().number == 1
    else:
        with pytest.raises(CameraError, match=rf"no frame for {age:.3f} s, allowed are 0\.1 s"):
            watched.look()


@pytest.mark.parametrize(("host_s", "message"), [(float("nan"), "no frame for nan"), (0.5, "0.500 s ahead of now")])
def test_impossible_times_of_arrival_are_refused(
    watched: WatchedCamera, scripted: ScriptedCamera, host_s: float, message: str
) -> None:
    scripted.frame = frame(1, host_s)
    with pytest.raises(CameraError, match=message):
        watched.look()


@pytest.mark.parametrize(
    "image",
    [
        picture(size=(16, 12)),
        picture()[..., 0],
        picture().astype(np.float32),
        np.zeros((*SIZE, 4), np.uint8),
        None,
    ],
)
def test_only_rgb_of_the_cameras_size_is_accepted(watched: WatchedCamera, scripted: ScriptedCamera, image: Any) -> None:
    wrong = frame(1, 0.0)
    object.__setattr__(wrong, "image", image)  # a frame's own type is checked in tests, and only there
    scripted.frame = wrong
    with pytest.raises(CameraError, match=r"not RGB as uint8 of shape \(12, 16, 3\)"):
        watched.look()


def test_without_stamps_an_equal_picture_is_a_frozen_one(
    watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock
) -> None:
    with pytest.raises(CameraError, match="repeats the picture of frame 1"):
        after(watched, scripted, clock, frame(1, 1.0, value=7), frame(2, 1.1, value=7))


def test_with_stamps_an_equal_picture_is_a_scene_that_stands_still(
    watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock
) -> None:
    assert after(watched, scripted, clock, frame(1, 1.0, 5.0, value=7), frame(2, 1.1, 5.1, value=7)).number == 2


def test_a_clock_that_went_back_is_refused_until_it_is_opened_again(
    watched: WatchedCamera, scripted: ScriptedCamera, clock: SimClock
) -> None:
    back = frame(2, 1.1, 4.0)
    with pytest.raises(CameraError, match="went back"):
        after(watched, scripted, clock, frame(1, 1.0, 5.0), back)
    scripted.frame = frame(3, 1.15, 4.05)
    clock.sleep_until(1.15)
    with pytest.raises(CameraError, match="went back"):
        watched.look()
    watched.open()
    assert watched.look().number == 3


def test_the_error_of_a_camera_is_the_watchs(watched: WatchedCamera) -> None:
    with pytest.raises(CameraError, match="no frame"):
        watched.look()


@pytest.mark.parametrize("drift", [-5e-5, 0.0, 5e-5])
def test_drifting_clocks_are_no_fault(clock: SimClock, drift: float) -> None:
    watched = WatchedCamera(Filming(clock, drift=drift), SIZE, clock)
    for _ in range(4 * 3600 // 5):  # half a shift: by then the clocks are 0.72 s apart
        advance(clock, 5.0)
        watched.look()


def test_a_growing_queue_is_a_fault_though_every_frame_arrives_now(clock: SimClock) -> None:
    watched = WatchedCamera(Filming(clock, delay=lambda number: 0.001 * number), SIZE, clock)
    seen, refused = 0, ""
    while not refused:
        advance(clock, 4 / FPS)
        try:
            seen = watched.look().number
        except CameraError as error:
            refused = str(error)
    assert "late, allowed are" in refused
    assert 90 <= seen <= 110  # by then a frame takes a tenth of a second longer than the first


times = st.one_of(st.floats(-0.2, 0.3), st.sampled_from([0.0, float("nan"), 1e9, -1e9]))
stamps = st.one_of(st.none(), times)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), times, stamps, st.floats(0, 0.3)), max_size=40))
def test_accepted_frames_are_always_new_and_fresh(
    steps: list[tuple[int, float, float | None, float]],
) -> None:
    clock, scripted = SimClock(), ScriptedCamera()
    watched = WatchedCamera(scripted, SIZE, clock)
    number, device, given_frames = 0, 0.0, []
    for by, age, stamped, pause in steps:
        advance(clock, pause)
        number += by
        device += stamped or 0.0
        scripted.frame = Frame(picture(number), clock.now() - age, None if stamped is None else device, number)
        try:
            seen = watched.look()
        except CameraError:
            continue
        assert 0 <= clock.now() - seen.host_s <= watched.max_age_s
        given_frames.append(seen)
    stamped_frames = [f.device_s for f in given_frames if f.device_s is not None]
    assert all(np.isfinite(stamped_frames))
    for values in ([f.number for f in given_frames], stamped_frames):
        assert all(after > before for before, after in itertools.pairwise(values))
    arrivals = [f.host_s for f in given_frames]
    assert arrivals == sorted(arrivals)


faults = st.builds(
    Faults,
    freeze=st.booleans(),
    repeat=st.booleans(),
    drop=st.booleans(),
    clock_jump_s=st.sampled_from([0.0, 5.0, -5.0]),
    late_s=st.sampled_from([0.0, 0.3]),
    unplug=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(faults, st.floats(1 / FPS, 2.0)), max_size=20), st.integers(0, 2**32 - 1))
def test_faults_are_errors_and_nothing_else_is(steps: list[tuple[Faults, float]], seed: int) -> None:
    clock = SimClock()
    jitter = np.random.default_rng(seed).uniform(0.01, 0.04, 997)
    faulty = FaultyCamera(Filming(clock, lambda number: float(jitter[number % 997])), clock)
    watched = WatchedCamera(faulty, SIZE, clock)
    for wrong, pause in steps:
        advance(clock, 2.0)
        faulty.faults = Faults()
        watched.open()
        watched.look()
        faulty.faults = wrong
        advance(clock, pause + 0.05)
        if wrong == Faults():
            watched.look()
        else:
            with pytest.raises(CameraError):
                watched.look()


# Fitting.


def test_the_right_size_is_left_alone() -> None:
    image = picture(3)
    assert fitted(image, SIZE) is image


@pytest.mark.parametrize("size", [(6, 8), (24, 32), (6, 6), (30, 10), (1, 1), (12, 17)])
def test_pictures_get_the_wanted_size_and_keep_their_colour(size: tuple[int, int]) -> None:
    image = np.broadcast_to(np.array([10, 120, 250], np.uint8), (*SIZE, 3))
    small = fitted(np.ascontiguousarray(image), size)
    assert small.shape == (*size, 3)
    assert np.all(small == [10, 120, 250])


def test_the_sides_are_cut_off_and_nothing_is_stretched() -> None:
    image = picture(0)
    image[:, 2:14] = 200  # the middle 12 x 12
    assert np.all(fitted(image, (12, 12)) == 200)
    assert np.all(fitted(image, (3, 3)) == 200)
    assert np.all(fitted(np.ascontiguousarray(image.transpose(1, 0, 2)), (4, 4)) == 200)


def test_making_smaller_averages() -> None:
    image = np.indices(SIZE).sum(0)[..., None].repeat(3, 2) % 2 * 200
    assert np.all(fitted(image.astype(np.uint8), (6, 8)) == 100)


# Several cameras.


class Noted(ScriptedCamera):
    def __init__(self, log: list[str], label: str, *, broken: bool = False) -> None:
        super().__init__()
        self._log, self._label, self._broken = log, label, broken

    def open(self) -> None:
        if self._broken:
            raise CameraError(f"{self._label} is broken")
        self._log.append(f"open {self._label}")

    def close(self) -> None:
        self._log.append(f"close {self._label}")


def test_all_are_opened_and_closed() -> None:
    log: list[str] = []
    with open_all([Noted(log, "a"), Noted(log, "b")]):
        assert log == ["open a", "open b"]
    assert log[2:] == ["close b", "close a"]


def test_if_one_cannot_be_opened_the_others_are_closed() -> None:
    log: list[str] = []
    with pytest.raises(CameraError, match="c is broken"):
        open_all([Noted(log, "a"), Noted(log, "b"), Noted(log, "c", broken=True), Noted(log, "d")])
    assert log == ["open a", "open b", "close b", "close a"]


# The reader's thread.


def test_the_reader_keeps_the_newest_frame_and_ends() -> None:
    numbers, released = iter(range(1, 10**9)), threading.Event()

    def read() -> Frame:
        time.sleep(0.001)
        return frame(next(numbers), 0.0)

    reader = Reader("left", read, released.set)
    first = reader.latest().number
    eventually(lambda: reader.latest().number > first + 3)
    reader.close()
    reader.close()
    assert released.is_set()
    assert reader.latest().number == reader.latest().number


@pytest.mark.parametrize(("error", "message"), [(OSError("EIO"), "camera 'left' failed: EIO"), (CameraError("x"), "x")])
def test_the_error_that_ended_the_reader_is_raised_every_time(error: Exception, message: str) -> None:
    released = threading.Event()

    def read() -> Frame:
        raise error

    reader = Reader("left", read, released.set)
    for _ in range(2):
        with pytest.raises(CameraError, match=f"^{message}$") as raised:
            reader.latest()
        assert raised.value.__cause__ is error
    reader.close()
    assert released.is_set()


def test_the_first_frame_is_waited_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robotest.hardware.cameras.reader.FIRST_FRAME_S", 0.01)
    reader = Reader("left", lambda: time.sleep(0.001), lambda: None)
    with pytest.raises(CameraError, match=r"no frame within 0\.01 s"):
        reader.latest()
    reader.close()


def test_a_driver_that_hangs_does_not_keep_close_and_is_released_when_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("robotest.hardware.cameras.reader._CLOSE_S", 0.01)
    returns, released = threading.Event(), threading.Event()

    def read() -> None:
        returns.wait()

    reader = Reader("left", read, released.set)
    reader.close()
    assert not released.is_set()
    returns.set()
    eventually(released.is_set)


# RealSense, through devices that its SDK makes in software.


class SoftwareRealSense:
    """A RealSense camera without hardware: everything after the USB is the SDK's own code."""

    def __init__(self, rs: Any, serial: str = "218622270304") -> None:
        self.rs, self.serial = rs, serial
        self.context = rs.context()
        # The context forgets a device made in software as soon as nobody holds the list it was announced in.
        self.announced: list[Any] = []
        self.context.set_devices_changed_callback(lambda info: self.announced.append(info.get_new_devices()))
        self._device = rs.software_device()
        self._device.register_info(rs.camera_info.name, "Software D405")
        self._device.register_info(rs.camera_info.serial_number, serial)
        self._sensor = self._device.add_sensor("Stereo Module")
        self._profile = self._sensor.add_video_stream(self._stream()).as_video_stream_profile()
        self._device.add_to(self.context)

    def _stream(self) -> Any:
        stream, intrinsics = self.rs.video_stream(), self.rs.intrinsics()
        stream.type, stream.fmt, stream.index, stream.uid = self.rs.stream.color, self.rs.format.rgb8, 0, 1
        intrinsics.height, intrinsics.width = stream.height, stream.width = SIZE
        stream.fps, stream.bpp, stream.intrinsics = FPS, 3, intrinsics
        return stream

    def film(self, number: int, device_s: float, image: np.ndarray, domain: str = "hardware_clock") -> None:
        taken = self.rs.software_video_frame()
        taken.stride, taken.bpp, taken.pixels = image.shape[1] * 3, 3, image
        taken.timestamp, taken.frame_number, taken.profile = device_s * 1000, number, self._profile
        taken.domain = getattr(self.rs.timestamp_domain, domain)
        self._sensor.on_video_frame(taken)


@pytest.fixture
def realsense() -> SoftwareRealSense:
    return SoftwareRealSense(pytest.importorskip("pyrealsense2", exc_type=ImportError))


@pytest.fixture
def d405(realsense: SoftwareRealSense, clock: SimClock) -> Iterator[RealSenseCamera]:
    camera = RealSenseCamera("left wrist", realsense.serial, SIZE, FPS, clock, realsense.context)
    camera.open()
    yield camera
    camera.close()
    camera.close()


def arrives(camera: Camera, number: int) -> Frame:
    eventually(lambda: camera.latest().number == number)
    return camera.latest()


def test_realsense_frames_keep_pixels_number_and_stamp(
    realsense: SoftwareRealSense, d405: RealSenseCamera, clock: SimClock
) -> None:
    advance(clock, 2.0)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    realsense.film(7, 12.5, image)
    first = arrives(d405, 7)
    assert (first.host_s, first.device_s) == (2.0, 12.5)
    np.testing.assert_array_equal(first.image, image)
    realsense.film(8, 12.6, picture(1))
    arrives(d405, 8)
    np.testing.assert_array_equal(first.image, image)
    assert first.image.flags.owndata  # it is not the SDK's buffer, which is used again


def test_realsense_frames_pass_the_watch_until_one_is_frozen(
    realsense: SoftwareRealSense, d405: RealSenseCamera, clock: SimClock
) -> None:
    watched = WatchedCamera(d405, SIZE, clock)
    for number in (1, 2, 3):
        advance(clock, 0.1)
        realsense.film(number, 5 + 0.1 * number, picture(number))
        arrives(d405, number)
        assert watched.look().number == number
    with pytest.raises(CameraError, match="nothing newer than frame 3"):
        watched.look()
    advance(clock, 0.1)
    realsense.film(4, 5.3, picture(3))
    arrives(d405, 4)
    with pytest.raises(CameraError, match="is frozen"):
        watched.look()


def test_realsense_stamps_count_on_when_the_cameras_counter_wraps(
    realsense: SoftwareRealSense, d405: RealSenseCamera
) -> None:
    wrap = 2**32 / 1e6
    stamps = []
    for number, device_s in enumerate([wrap - 0.1, wrap - 0.05, 0.0, 0.05, wrap - 0.01, 0.02], 1):
        realsense.film(number, device_s, picture(number))
        stamps.append(arrives(d405, number).device_s)
    expected = [wrap - 0.1, wrap - 0.05, wrap, wrap + 0.05, 2 * wrap - 0.01, 2 * wrap + 0.02]
    assert stamps == pytest.approx(expected)


@pytest.mark.parametrize("domain", ["system_time", "global_time"])
def test_realsense_stamps_of_the_wall_clock_are_not_taken(
    realsense: SoftwareRealSense, d405: RealSenseCamera, domain: str
) -> None:
    realsense.film(1, 1.7e9, picture(1), domain)
    assert arrives(d405, 1).device_s is None


def test_an_unplugged_realsense_is_distinguished_from_a_silent_one(
    realsense: SoftwareRealSense, d405: RealSenseCamera, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    realsense.film(1, 1.0, picture(1))
    arrives(d405, 1)
    advance(clock, 1.5)
    with pytest.raises(CameraError, match=r"'left wrist' gave no frame for 1\.5 s: open it again"):
        eventually(lambda: d405.latest().number < 0)
    d405.open()
    realsense.film(2, 2.0, picture(2))
    arrives(d405, 2)
    name = "robotest.hardware.cameras.realsense._realsense_devices"
    monkeypatch.setattr(name, lambda rs, context: {})  # the SDK's own cannot vanish
    advance(clock, 1.5)
    with pytest.raises(CameraError, match=r"'left wrist' \(218622270304\) was unplugged: no frame for 1\.5 s"):
        eventually(lambda: d405.latest().number < 0)


def test_realsense_that_is_not_there_is_explained(realsense: SoftwareRealSense, clock: SimClock) -> None:
    camera = RealSenseCamera("main", "000", SIZE, FPS, clock, realsense.context)
    with pytest.raises(CameraError, match=r"no RealSense with serial '000' is connected; there are .*218622270304"):
        camera.open()
    with pytest.raises(CameraError, match="not open: call open"):
        camera.latest()
    camera.close()


def test_realsense_mode_that_it_does_not_have_is_explained(realsense: SoftwareRealSense, clock: SimClock) -> None:
    camera = RealSenseCamera("main", realsense.serial, (480, 640), FPS, clock, realsense.context)
    with pytest.raises(CameraError, match=r"cannot stream 640x480 at 30 fps .*; its colour modes are 16x12 at 30 fps$"):
        camera.open()


def test_missing_packages_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CameraError, match=r"pyrealsense2 is not installed: pip install 'robotest\[realsense\]'"):
        RealSenseCamera("main", "1", SIZE, FPS, SimClock()).open()
    with pytest.raises(CameraError, match=r"cv2 is not installed: pip install 'robotest\[cameras\]'"):
        V4l2Camera("main", "/dev/video0", SIZE, FPS, SimClock()).open()


def test_a_package_without_its_library_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    message = "libusb-1.0.so.0: cannot open shared object file"
    (tmp_path / "pyrealsense2.py").write_text(f"raise ImportError({message!r})")
    monkeypatch.delitem(sys.modules, "pyrealsense2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CameraError, match=f"{message} .on Debian: apt-get install libusb-1.0-0"):
        RealSenseCamera("main", "1", SIZE, FPS, SimClock()).open()


# Video4Linux: real errors of the real backend, and OpenCV's decoder on a film in place of a camera.


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 64 x 48 at 10 fps; red is 20 times the frame's number, blue stays."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    with imageio.get_writer(path, format="FFMPEG", fps=10, codec="libx264", macro_block_size=16) as opened:
        writer: Any = opened
        for number in range(12):
            image = np.zeros((48, 64, 3), np.uint8)
            image[...] = [20 * number, 0, 100]
            writer.append_data(image)
    return path


class Paced:
    """OpenCV's capture of a film that returns a frame on demand and, unlike a camera, ignores settings."""

    def __init__(self, cv2: Any, path: str) -> None:
        self._capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        self.go = threading.Semaphore(0)
        self.released = threading.Event()
        self.isOpened, self.get = self._capture.isOpened, self._capture.get

    def set(self, key: int, value: float) -> bool:
        return False

    def read(self) -> tuple[bool, np.ndarray | None]:
        while not self.go.acquire(timeout=0.01):
            if self.released.is_set():
                return False, None
        done: tuple[bool, np.ndarray | None] = self._capture.read()
        return done

    def release(self) -> None:
        self.released.set()
        self._capture.release()


def test_v4l2_frames_are_rgb_numbered_and_stamped_and_their_end_is_an_error(film: Path, clock: SimClock) -> None:
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    captures: list[Paced] = []

    def capture(path: str) -> Paced:
        captures.append(Paced(cv2, path))
        return captures[-1]

    camera = V4l2Camera("main", str(film), (48, 64), 10, clock, capture=capture)
    with pytest.raises(CameraError, match="not open"):
        camera.latest()
    camera.open()
    for number in range(1, 13):
        clock.sleep_until(0.1 * number)
        captures[0].go.release()
        seen = arrives(camera, number)
        assert seen.host_s == pytest.approx(0.1 * number)
        assert seen.device_s == (pytest.approx(0.1 * (number - 1)) if number > 1 else None)
        np.testing.assert_allclose(seen.image.mean((0, 1)), [20 * (number - 1), 0, 100], atol=12)
    captures[0].go.release()
    with pytest.raises(CameraError, match="gives no more frames after 12; was it unplugged"):
        eventually(lambda: camera.latest().number > 12)
    assert captures[0].released.is_set()
    camera.close()
    camera.close()


def test_v4l2_size_or_rate_that_the_camera_does_not_take_is_an_error(film: Path, clock: SimClock) -> None:
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    captures = [Paced(cv2, str(film)), Paced(cv2, str(film))]
    for capture, size, fps in zip(captures, [(480, 640), (48, 64)], [10, 30], strict=True):
        camera = V4l2Camera("main", str(film), size, fps, clock, capture=lambda _, made=capture: made)  # type: ignore[misc]
        with pytest.raises(CameraError, match="gives 64x48 at 10 fps, not "):
            camera.open()
        assert capture.released.is_set()


def test_v4l2_without_a_device_says_which_there_are(clock: SimClock) -> None:
    pytest.importorskip("cv2", exc_type=ImportError)
    with pytest.raises(CameraError, match=r"there is no /dev/video999; there are .*/dev/video"):
        V4l2Camera("main", "/dev/video999", SIZE, FPS, clock).open()


def test_v4l2_of_something_else_than_a_camera_is_an_error(clock: SimClock, tmp_path: Path) -> None:
    pytest.importorskip("cv2", exc_type=ImportError)
    path = tmp_path / "video0"
    path.write_bytes(b"no camera")
    with pytest.raises(CameraError, match="cannot be opened: is it a camera"):
        V4l2Camera("main", str(path), SIZE, FPS, clock).open()


# Films.


def red(seen: Frame) -> int:
    """Number of the film's frame, from its colour."""
    return round(float(seen.image[..., 0].mean()) / 20)


def test_a_film_is_played_at_its_rate_by_the_clock(film: Path, clock: SimClock) -> None:
    advance(clock, 100.0)
    camera = ReplayCamera("main", film, clock)
    assert (camera.size, camera.fps) == ((48, 64), 10.0)
    camera.open()
    for seconds, number in [(0.0, 0), (0.05, 0), (0.1, 1), (0.19, 1), (0.7, 7), (1.1, 11)]:
        clock.sleep_until(100.0 + seconds)
        seen = camera.latest()
        assert (seen.number, red(seen)) == (number, number)
        assert seen.device_s == pytest.approx(0.1 * number)
        assert seen.host_s == pytest.approx(100.0 + 0.1 * number)
    clock.sleep_until(101.2)
    for _ in range(2):
        with pytest.raises(CameraError, match=r"film\.mp4 ended after 12 frames; give a longer film, or loop = true"):
            camera.latest()
    camera.open()
    assert red(camera.latest()) == 0
    camera.close()
    camera.close()
    with pytest.raises(CameraError, match="not open"):
        camera.latest()


def test_a_film_in_a_loop_passes_the_watch(film: Path, clock: SimClock) -> None:
    watched = WatchedCamera(ReplayCamera("main", film, clock, loop=True), (24, 24), clock)
    with open_all([watched]):
        for number in range(0, 40, 3):
            clock.sleep_until(0.1 * number)
            seen = watched.look()
            assert (seen.number, red(seen)) == (number, number % 12)


def test_a_film_first_asked_for_late_catches_up_with_the_time_that_reading_takes(
    film: Path, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the arms went home first, on a busy machine: reading the frames passed over takes longer than a frame."""
    camera = ReplayCamera("main", film, clock)
    watched = WatchedCamera(camera, (24, 24), clock)
    read = camera._next

    def slowly() -> bytes:
        advance(clock, 0.04)
        return read()

    monkeypatch.setattr(camera, "_next", slowly)
    with open_all([watched]):
        clock.sleep_until(0.65)
        seen = watched.look()
        assert (seen.number, red(seen)) == (10, 10)  # seven frames take .28 s, three more .12 s, and one more .04 s


def test_a_film_that_cannot_be_read_is_explained(clock: SimClock, tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="there is no file"):
        ReplayCamera("main", tmp_path / "none.mp4", clock).open()
    path = tmp_path / "words.mp4"
    path.write_text("no film")
    with pytest.raises(CameraError, match=r"words\.mp4 is not a film"):
        _ = ReplayCamera("main", path, clock).size


# Rendered scenes.


def test_a_rendered_scene_passes_the_watch_while_it_moves(clock: SimClock) -> None:
    state_s = [0.0]
    camera = RenderedCamera("main", SIZE, lambda: (picture(5), state_s[0]), clock)
    watched = WatchedCamera(camera, SIZE, clock)
    with pytest.raises(CameraError, match="not open"):
        watched.look()
    with open_all([watched]):
        for _ in range(3):
            advance(clock, 0.5)
            state_s[0] = clock.now() - 0.004
            assert watched.look().device_s == state_s[0]
        advance(clock, 0.05)
        with pytest.raises(CameraError, match="is frozen"):
            watched.look()
        advance(clock, 1.0)
        state_s[0] += 0.5
        with pytest.raises(CameraError, match=r"came 0\.5.. s late"):
            watched.look()


def test_a_rendered_picture_of_a_wrong_size_is_an_error(clock: SimClock) -> None:
    camera = RenderedCamera("main", SIZE, lambda: (picture(size=(3, 4)), 0.0), clock)
    camera.open()
    with pytest.raises(CameraError, match=r"gives uint8 of shape \(3, 4, 3\)"):
        camera.latest()


# Faults.


@pytest.fixture
def faulty(clock: SimClock) -> FaultyCamera:
    camera = FaultyCamera(Filming(clock), clock)
    advance(clock, 1.0)
    camera.open()
    camera.latest()
    advance(clock, 0.5)
    return camera


def test_without_faults_nothing_is_changed(faulty: FaultyCamera, clock: SimClock) -> None:
    expected = Filming(clock).latest()
    seen = faulty.latest()
    np.testing.assert_array_equal(seen.image, expected.image)
    assert dataclasses.replace(seen, image=expected.image) == expected
    assert (faulty.name, faulty.size) == ("main", SIZE)
    faulty.close()


def test_each_fault_does_what_it_says(faulty: FaultyCamera, clock: SimClock) -> None:
    before = faulty.latest()
    advance(clock, 0.5)
    fresh = Filming(clock).latest()
    faulty.faults = Faults(freeze=True)
    assert faulty.latest() is before
    faulty.faults = Faults(repeat=True)
    seen = faulty.latest()
    assert (seen.number, seen.host_s) == (fresh.number, fresh.host_s)
    assert seen.device_s == before.device_s
    assert seen.image is before.image
    faulty.faults = Faults(clock_jump_s=-3.0)
    assert fresh.device_s is not None
    assert faulty.latest().device_s == fresh.device_s - 3.0
    faulty.faults = Faults(late_s=0.3)
    called = clock.now()
    seen = faulty.latest()
    assert seen.number == fresh.number
    assert clock.now() == pytest.approx(called + 0.3)
    faulty.faults = Faults(drop=True)
    with pytest.raises(CameraError, match="no frame within 3 s"):
        faulty.latest()
    faulty.faults = Faults(unplug=True)
    for broken in (faulty.latest, faulty.open):
        with pytest.raises(CameraError, match="was unplugged"):
            broken()
    faulty.faults = Faults()
    assert faulty.latest().number > fresh.number


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Faults(freeze=True), "no frame for"),
        (Faults(repeat=True), "frozen: new frames keep its stamp"),
        (Faults(drop=True), "no frame within"),
        (Faults(clock_jump_s=5.0), "jumped ahead by 5"),
        (Faults(clock_jump_s=-5.0), "clock that went back"),
        (Faults(late_s=0.3), "no frame for"),
        (Faults(unplug=True), "was unplugged"),
    ],
)
def test_the_watch_names_each_fault(clock: SimClock, fault: Faults, message: str) -> None:
    faulty = FaultyCamera(Filming(clock), clock)
    watched = WatchedCamera(faulty, SIZE, clock)
    advance(clock, 1.0)
    watched.look()
    faulty.faults = fault
    advance(clock, 0.5)
    with pytest.raises(CameraError, match=message):
        watched.look()


# Tables.


def test_tables_become_cameras(film: Path) -> None:
    mode = {"width": 640, "height": 480, "fps": 30}
    d405 = camera_from({"kind": "realsense", "serial": "218622270304", **mode}, "left")
    assert isinstance(d405, RealSenseCamera)
    assert (d405.name, d405.serial, d405.size, d405.fps) == ("left", "218622270304", (480, 640), 30)
    webcam = camera_from({"kind": "v4l2", "device": "/dev/video0", "fourcc": "YUYV", **mode}, "main")
    assert isinstance(webcam, V4l2Camera)
    assert (webcam.device, webcam.size, webcam.fps, webcam.fourcc) == ("/dev/video0", (480, 640), 30, "YUYV")
    replay = camera_from({"kind": "replay", "path": str(film), "loop": True}, "main", WallClock())
    assert isinstance(replay, ReplayCamera)
    assert (replay.path, replay.loop, replay.size) == (film, True, (48, 64))
    assert all(isinstance(camera, Camera) for camera in (d405, webcam, replay))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"kind": "realsens"},
            r"unknown kind of camera 'realsens'. Did you mean 'realsense'. Known: realsense, replay",
        ),
        ({"kind": ["v4l2"]}, "unknown kind of camera"),
        ({"kind": "replay", "pth": "a.mp4"}, r"unknown key of replay camera 'pth'. Did you mean 'path'"),
    ],
)
def test_unknown_kinds_and_keys_are_explained(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        camera_from(table, "main")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "'main' has no kind; give kind = one of 'realsense', 'replay', 'v4l2'"),
        ({"kind": "v4l2", "device": "/dev/video0"}, "lacks width, height, fps: a v4l2 camera needs them"),
        ({"kind": "realsense", "serial": 218622270304}, "serial = 218622270304; serial must be text in quotes"),
        ({"kind": "v4l2", "fps": 0}, "fps = 0; fps must be an integer above 0"),
        ({"kind": "v4l2", "fps": True}, "fps = True; fps must be an integer above 0"),
        ({"kind": "replay", "path": "a.mp4", "loop": 1}, "loop = 1; loop must be true or false"),
        (
            {"kind": "v4l2", "device": "d", "width": 4, "height": 3, "fps": 9, "fourcc": "MJPEG"},
            "fourcc = 'MJPEG'; give four letters",
        ),
    ],
)
def test_wrong_tables_are_explained(table: dict[str, Any], message: str) -> None:
    with pytest.raises(CameraError, match=message):
        camera_from(table, "main")
