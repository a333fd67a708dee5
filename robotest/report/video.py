"""Videos of recorded episodes, rendered from their states after the run: what was not wanted costs nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from robotest import experts, files, interrupt, registry
from robotest.errors import RobotestError, VideoError
from robotest.randomness import GlobalGenerators
from robotest.runs import directory, episode_file, spec
from robotest.runs.episode_file import Recording
from robotest.runtime.rollout import FILM_STRIDE
from robotest.types import Episode, Outcome, SimulatedEnv

Selection = Literal["none", "default", "succeeded", "failed", "errors", "all"]
"""Which episodes to show; ``default`` is up to two failures and one success of each condition and task."""

Picture = UInt8[np.ndarray, "height width 3"]

_WIDTH = 480  # of a frame [px]; the encoder wants multiples of 16
_MAIN_HEIGHT = 360  # at most
_SMALL_HEIGHT = 120  # at most
_CAPTION = 88
_SCORES_WIDTH = 160
_N_SMALL = 3
_COLOURS: Mapping[Outcome, str] = {
    "success": "#2ca25f",
    "failure": "#d7301f",
    "unjudged": "#f2f2f2",
    "error": "#f0a030",
}
Shot = tuple[int, Sequence[Picture]]
"""How many actions were executed, and what there is to see: the large picture, then small ones."""
_INK, _PAPER, _DIM, _CHOSEN = "#f2f2f2", "#16191d", "#6b7580", "#4aa3ff"
_WANTED: Mapping[Selection, Mapping[Outcome, int]] = {
    "none": {},
    "default": {"failure": 2, "success": 1, "unjudged": 1},
    "succeeded": {"success": 10**9},
    "failed": {"failure": 10**9},
    "errors": {"error": 10**9},
    "all": {"success": 10**9, "failure": 10**9, "unjudged": 10**9, "error": 10**9},
}


@dataclasses.dataclass(frozen=True)
class VideoStyle:
    """How a video is played.

    Attributes:
        camera: of the large picture; None is the environment's first.
        stride: every how many control steps a picture is made.
        speed: how many times faster than the episode it plays.
        hold_s: how long the last picture stays [s].
    """

    camera: str | None = None
    stride: int = 2
    speed: float = 2.0
    hold_s: float = 1.0


def select(episodes: Iterable[Episode], selection: Selection) -> list[spec.Key]:
    """Return the first episodes, in order of their index, that a selection takes of each condition and task."""
    taken: dict[tuple[str, str, Outcome], int] = {}
    keys = []
    for episode in sorted(episodes, key=lambda e: e.index):
        group = (episode.condition, episode.task, episode.outcome)
        taken[group] = taken.get(group, 0) + 1
        if taken[group] <= _WANTED[selection].get(episode.outcome, 0):
            keys.append(spec.key_of(episode))
    return sorted(keys)


def render_run(
    run: Path,
    keys: Sequence[spec.Key],
    style: VideoStyle = VideoStyle(),
    done: Callable[[Path], None] = lambda _: None,
) -> list[Path]:
    """Render episodes of a run to mp4 files beside their episode files; one that exists is kept.

    Args:
        run: the run directory.
        keys: which episodes.
        style: how they are played.
        done: called after each video.

    Raises:
        ArtifactError: an episode file is missing or damaged.
        RobotestError: the environment is not a simulator, or cannot be built again; or a video cannot be written.
    """
    paths = []
    with interrupt.deferred(), _environments() as environment_of:
        for key in keys:
            source = directory.episode_path(run, key)
            path = source.with_suffix(".mp4")
            if not path.exists():
                recorded = episode_file.read(source)
                _require_pictures(recorded, source)
                render(recorded, None if recorded.frames else environment_of(recorded.scene), path, style)
            paths.append(path)
            done(path)
    return paths


def can_be_filmed(recorded: Recording) -> bool:
    """Return whether there are states or frames to make a video of."""
    return bool(recorded.frames) or (recorded.snapshots is not None and len(recorded.snapshots) > 0)


def _require_pictures(recorded: Recording, source: Path) -> None:
    if not can_be_filmed(recorded):
        raise RobotestError(
            f"{source} holds no states and no frames to make a video of; `robotest eval --record images` keeps frames"
        )


def render(recorded: Recording, env: SimulatedEnv | None, path: Path, style: VideoStyle = VideoStyle()) -> None:
    """Render one episode to an mp4 file; `path` appears when it is complete.

    Args:
        recorded: the episode.
        env: the environment it ran in; None: from the frames that were kept.
        path: where to.
        style: how it is played; frames that were kept have a stride of their own.

    Raises:
        RobotestError: the recording holds neither states nor frames, or the file cannot be written.
    """
    _require_pictures(recorded, path.with_suffix(".h5"))
    stride = FILM_STRIDE if env is None else style.stride
    shots = _kept(recorded) if env is None else _rendered(recorded, env, style)
    fps = style.speed / (stride * recorded.scene.control_dt)
    with files.replacing(path) as partial:
        try:
            partial.touch()
        except OSError as error:
            raise RobotestError(f"cannot write video {path}: {error.strerror or error}") from error
        try:
            with Film(partial, fps) as film:
                for frame in _frames(recorded, shots, style, round(style.hold_s * fps)):
                    if not film.append(frame):
                        break
        except VideoError as error:
            raise VideoError(
                f"cannot write video {path}: {error}; once that is mended, the same command goes on"
            ) from error


def _frames(recorded: Recording, shots: Iterable[Shot], style: VideoStyle, held: int) -> Iterator[Picture]:
    """Yield what is shown; the last one is held."""
    for step, pictures in shots:
        interrupt.check()
        frame = compose(recorded, step, pictures, style.speed)
        yield frame
    yield from itertools.repeat(frame, held)


def _rendered(recorded: Recording, env: SimulatedEnv, style: VideoStyle) -> Iterator[Shot]:
    """Make pictures from states."""
    assert recorded.snapshots is not None
    # As `rollout` does it: a reset may draw from the process's generators.
    with GlobalGenerators(recorded.scene.reset_seed).lent():
        env.reset(recorded.scene.reset_seed, recorded.episode.index)
    last = len(recorded.snapshots) - 1
    for step in sorted({*range(0, last, style.stride), last}):
        env.restore(recorded.snapshots[step])
        yield step, _pictures(env, style.camera)


def _kept(recorded: Recording) -> Iterator[Shot]:
    """Show the frames that were made during the run, all in the size of the first."""
    size: tuple[int, int] | None = None
    for step, jpeg in zip(recorded.frame_steps, recorded.frames, strict=True):
        frame = Image.open(io.BytesIO(jpeg))
        size = size or _fitted((frame.height, frame.width), _MAIN_HEIGHT, _WIDTH)
        yield int(step), [np.asarray(frame.resize(size[::-1], Image.Resampling.BILINEAR))]


def compose(recorded: Recording, step: int, pictures: Sequence[Picture], speed: float) -> Picture:
    """Lay out one frame: the main picture, the small ones in a row, a caption, the scores of the decision in force.

    Args:
        recorded: the episode.
        step: how many actions have been executed.
        pictures: the main one, then the small ones.
        speed: printed in the caption.
    """
    main, *small = pictures
    top = len(main) + max(map(len, small), default=0)
    canvas = Image.new("RGB", (_WIDTH, -(-(top + _CAPTION) // 16) * 16), _PAPER)
    canvas.paste(Image.fromarray(main), ((_WIDTH - main.shape[1]) // 2, 0))
    for i, picture in enumerate(small):
        canvas.paste(Image.fromarray(picture), (i * _WIDTH // len(small), len(main)))
    draw = ImageDraw.Draw(canvas)
    _draw_caption(draw, recorded, step, speed, top)
    decision = int(np.searchsorted(recorded.decision_steps, step, side="right")) - 1
    if decision >= 0:
        where = (_WIDTH - _SCORES_WIDTH, top + 22, _WIDTH, top + _CAPTION)
        chosen = int(recorded.chosen[decision])
        level = None if recorded.levels is None else float(recorded.levels[decision, chosen])
        _draw_scores(draw, where, recorded.scores[decision], chosen, decision, level)
    return np.asarray(canvas)


def _pictures(env: SimulatedEnv, camera: str | None) -> list[Picture]:
    """Render one camera large and the environment's others small, each in the proportions the policy sees it in."""
    cameras = env.spec.cameras
    main = camera or next(iter(cameras))
    small = [name for name in cameras if name != main][:_N_SMALL]
    sizes = [
        _fitted(cameras.get(main, (3, 4)), _MAIN_HEIGHT, _WIDTH),
        *(_fitted(cameras[name], _SMALL_HEIGHT, _WIDTH // len(small)) for name in small),
    ]
    try:
        return [env.render(name, *size) for name, size in zip((main, *small), sizes, strict=True)]
    except (KeyError, ValueError) as error:
        raise RobotestError(
            f"camera {main!r} cannot be shown: {error}; the policy's are {', '.join(cameras)}"
        ) from error


def _fitted(proportions: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the largest (height, width) of these proportions within the given one."""
    scale = min(height / proportions[0], width / proportions[1])
    return round(scale * proportions[0]), round(scale * proportions[1])


def _draw_caption(draw: ImageDraw.ImageDraw, recorded: Recording, step: int, speed: float, top: int) -> None:
    episode = recorded.episode
    draw.text((8, top + 4), _shortened(episode.instruction, 64), _INK, _font(14))
    draw.text(
        (8, top + 25), _shortened(f"{episode.condition}  ·  {episode.task} #{episode.index}", 44), _DIM, _font(13)
    )
    draw.text((8, top + 45), f"step {step}/{episode.steps}  x{speed:g}", _DIM, _font(13))
    draw.text((8, top + 65), episode.outcome, _COLOURS[episode.outcome], _font(14))


def _draw_scores(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    scores: Float64[np.ndarray, " M"],
    chosen: int,
    decision: int,
    level: float | None,
) -> None:
    """Bars from the lowest to the highest score of this decision: only their order and spacing mean anything."""
    left, top, right, bottom = box
    draw.text((left + 6, top + 3), f"scores, decision {decision + 1}", _DIM, _font(11))
    if level is not None:  # of the chosen one: how unusual it is among demonstrations
        draw.text((left + 6, top + 16), f"{100 * (1 - level):.3g} % of demos score higher", _DIM, _font(11))
        top += 13
    low, high = float(scores.min()), float(scores.max())
    heights = (scores - low) / (high - low) if high > low else np.ones_like(scores)
    floor, room, width = bottom - 4, bottom - top - 24, (right - left - 12) / len(scores)
    for m, height in enumerate(heights):
        x = left + 6 + m * width
        bar = (x, floor - 3 - room * height, x + max(width - 2, 1), floor)
        draw.rectangle(bar, _CHOSEN if m == chosen else _DIM)


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


class Film:
    """An mp4 in the making that every player shows (H.264, yuv420p). Leaving it as a context ends it.

    By ffmpeg itself: imageio's writer does not look at how it ended, and so takes half a video on a full disk for one.

    Args:
        path: where to.
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._encoder: subprocess.Popen[bytes] | None = None
        self._failure = "there is nothing to show"

    def append(self, frame: Picture) -> bool:
        """Add a frame, of the same size as the others; return False once no more can be written."""
        if self._encoder is None:
            try:
                self._encoder = self._start(frame.shape[0], frame.shape[1])
            except (OSError, RuntimeError) as error:
                self._failure = f"ffmpeg cannot be started: {error}"
                return False
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            return False  # it has ended, and says why
        return True

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the film.

        Raises:
            VideoError: it is not whole; the message is what ffmpeg says.
        """
        if self._encoder is None:
            if kind is None:
                raise VideoError(self._failure)
            return
        if kind is not None:
            self._encoder.kill()
        said = self._encoder.communicate()[1].decode(errors="replace").strip()
        if kind is None and self._encoder.returncode:
            first = next(iter(said.splitlines()), f"ffmpeg ended with {self._encoder.returncode}")
            raise VideoError(re.sub(r"^\[.*?\] ", "", first))

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._fps:.6f}"]
        encoder = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "veryfast", "-crf", "27", "-threads", "1"]
        output = ["-an", *encoder, "-movflags", "+faststart", "-f", "mp4", str(self._path)]
        return subprocess.Popen(  # noqa: S603 - ffmpeg on our own pictures; Ctrl-C is for us
            [get_ffmpeg_exe(), "-y", "-v", "error", *source, "-i", "-", *output],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip


@contextlib.contextmanager
def _environments() -> Iterator[Callable[[episode_file.Recipe], SimulatedEnv]]:
    """Build each environment once, and close them all at the end."""
    built: dict[Any, SimulatedEnv] = {}

    def environment_of(scene: episode_file.Recipe) -> SimulatedEnv:
        options = dataclasses.replace(scene.options, cameras=None, expert=None)  # all, not those of the policy
        key = (scene.env, scene.task, options)
        if key not in built:
            env = experts.make(scene.env, registry.resolve("env", scene.env), scene.task, options)
            if not isinstance(env, SimulatedEnv):
                raise RobotestError(f"{scene.env}:{scene.task} cannot restore states, so it cannot be filmed")
            built[key] = env
        return built[key]

    try:
        yield environment_of
    finally:
        for env in built.values():
            env.close()
