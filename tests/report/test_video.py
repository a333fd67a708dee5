import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import ImageDraw

from robotest.config import EvalConfig
from robotest.errors import ArtifactError, RobotestError, VideoError
from robotest.evaluation import evaluate
from robotest.report import video
from robotest.runs import directory, episode_file
from robotest.runs.episode_file import Recording
from robotest.types import EnvOptions, Episode, Outcome
from tests.doubles.fakes import PointEnv


def _episode(index: int, outcome: Outcome = "success", condition: str = "a", task: str = "near") -> Episode:
    return Episode(condition, task, index, outcome, 12, 20, 3, "reach the target", (1, 0, 1), None, 0.0, 0.0, 0.0)


def _recording(n_steps: int = 12, *, snapshots: bool = True) -> Recording:
    """A point that moves right."""
    states = np.zeros((n_steps + 1, 7))
    states[:, 0] = np.linspace(-0.9, 0.9, n_steps + 1)
    return Recording(
        episode=_episode(0),
        scene=episode_file.Recipe("tests.doubles.fakes:suite", "near", EnvOptions(), 1, 0.1),
        rewards=None,
        frames=(),
        frame_steps=np.zeros(0, np.int64),
        snapshots=states if snapshots else None,
        actions=np.zeros((n_steps, 3), np.float32),
        success=np.zeros(n_steps, bool),
        decision_steps=np.array([0, 6]),
        candidates=np.zeros((2, 4, 6, 3), np.float32),
        scores=np.array([[0.0, 3.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]]),
        chosen=np.array([1, 0]),
    )


def _frames(path: Path) -> tuple[float, np.ndarray]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - ffmpeg on our own file
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 448, 480, 3)
    match = re.search(r"([\d.]+) fps", done.stderr.decode())
    assert match is not None
    assert "yuv420p" in done.stderr.decode()
    return float(match[1]), frames


def test_select_default_takes_two_failures_and_one_success() -> None:
    episodes = [_episode(i, "failure") for i in (5, 1, 3)] + [_episode(i) for i in (4, 2)] + [_episode(0, "error")]
    assert video.select(episodes, "default") == [("a", "near", 1), ("a", "near", 2), ("a", "near", 3)]


def test_select_counts_each_condition_and_task_apart() -> None:
    episodes = [_episode(0, condition=c, task=t) for c in "ab" for t in ("near", "far")]
    assert len(video.select(episodes, "default")) == 4


@pytest.mark.parametrize(
    ("selection", "indices"), [("none", []), ("failed", [1]), ("succeeded", [0]), ("errors", [2]), ("all", [0, 1, 2])]
)
def test_select_by_outcome(selection: video.Selection, indices: list[int]) -> None:
    episodes = [_episode(0), _episode(1, "failure"), _episode(2, "error")]
    assert [index for _, _, index in video.select(episodes, selection)] == indices


def test_a_video_has_the_first_the_last_and_every_second_state(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    video.render(_recording(13), PointEnv("near", EnvOptions()), path, video.VideoStyle(stride=2, speed=2, hold_s=0.2))
    fps, frames = _frames(path)
    assert fps == 10.0  # 1 / (0.1 s * stride 2) * speed 2
    assert len(frames) == 8 + 2  # states 0, 2 .. 12 and 13, then the last one held
    assert frames[0].shape == (448, 480, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_show_the_states_in_order(tmp_path: Path) -> None:
    seen: list[float] = []

    class Spy(PointEnv):
        def restore(self, state: np.ndarray) -> None:
            super().restore(state)
            seen.append(float(state[0]))

    env = Spy("near", EnvOptions())
    seen.clear()
    recorded = _recording(4)
    video.render(recorded, env, tmp_path / "a.mp4")
    assert recorded.snapshots is not None
    assert seen[1:] == recorded.snapshots[[0, 2, 4], 0].tolist()  # the first one is the reset


def _scores(step: int) -> np.ndarray:
    """The corner of a frame in which the scores are drawn."""
    picture = np.zeros((240, 480, 3), np.uint8)
    return video.compose(_recording(), step, [picture], 1.0)[262:328, 320:]


@pytest.mark.parametrize(
    ("proportions", "size"), [((48, 96), (240, 480)), ((64, 64), (360, 360)), ((480, 640), (360, 480))]
)
def test_pictures_keep_their_proportions(proportions: tuple[int, int], size: tuple[int, int]) -> None:
    assert video._fitted(proportions, 360, 480) == size


def test_the_level_of_the_chosen_candidate_is_written_above_smaller_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def listen(draw: Any, where: Any, words: str, *rest: Any) -> None:
        written.append(words)
        text(draw, where, words, *rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    without = _scores(3)
    assert not any("demos" in words for words in written)
    levels = np.array([[0.5, 0.009, 0.5, 0.5], [0.25, 0.5, 0.5, 0.5]])
    picture = np.zeros((240, 480, 3), np.uint8)
    recorded = dataclasses.replace(_recording(), levels=levels)
    with_levels = [video.compose(recorded, step, [picture], 1.0)[262:328, 320:] for step in (3, 7)]
    assert [words for words in written if "demos" in words] == [
        "99.1 % of demos score higher",
        "75 % of demos score higher",
    ]
    np.testing.assert_array_equal(with_levels[0][:16], without[:16])
    chosen = [(frame == [0x4A, 0xA3, 0xFF]).all(axis=2).sum() for frame in (with_levels[0], without)]
    assert 0 < chosen[0] < chosen[1]


def test_the_chosen_candidate_is_highlighted() -> None:
    bars = _scores(3).astype(int)
    blue = (abs(bars - [0x4A, 0xA3, 0xFF]).sum(-1) < 20).any(0).nonzero()[0]
    first, last = 6 + 37 * 1, 6 + 37 * 2  # the second of four bars
    assert first <= blue.min()
    assert blue.max() <= last


def test_the_decision_in_force_is_shown() -> None:
    before, at, after = map(_scores, (5, 6, 11))
    assert not np.array_equal(before, at)
    assert np.array_equal(at, after)


def test_an_episode_without_states_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match="no states"):
        video.render(_recording(snapshots=False), PointEnv("near", EnvOptions()), tmp_path / "a.mp4")


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    class Dark(PointEnv):
        def render(self, camera: str, height: int, width: int) -> np.ndarray:
            raise RuntimeError("no light")

    with pytest.raises(RuntimeError, match="no light"):
        video.render(_recording(), Dark("near", EnvOptions()), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_render_run_writes_beside_the_episodes_and_keeps_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluate(
        EvalConfig(
            run,
            "tests.doubles.fakes:suite",
            "tests.doubles.fakes:policy",
            ("first",),
            ("near",),
            episodes=2,
            execute="all",
            workers=0,
        )
    )
    keys = list(directory.read_episodes(run))
    reported: list[Path] = []
    paths = video.render_run(run, keys[:1], done=reported.append)
    assert paths == reported == [directory.episode_path(run, keys[0]).with_suffix(".mp4")]
    written = paths[0].stat().st_mtime_ns
    assert len(video.render_run(run, keys)) == 2
    assert paths[0].stat().st_mtime_ns == written


def test_render_run_names_a_missing_episode(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="00007"):
        video.render_run(tmp_path, [("a", "near", 7)])


def test_an_encoder_that_cannot_be_started_is_told_at_the_end_and_interrupts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "get_ffmpeg_exe", lambda: str(tmp_path / "missing"))
    film = video.Film(tmp_path / "a", 10).__enter__()
    assert not film.append(np.zeros((16, 16, 3), np.uint8))
    assert not film.append(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(VideoError, match=r"ffmpeg cannot be started.*missing"):
        film.__exit__(None)
