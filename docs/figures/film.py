"""Draw the README's moving picture: two conditions of a run from the same start, side by side.

``robotest eval --tasks handover_block --verifiers random,leverage --episodes 1 --seed 2026 --out RUN``, then
``python docs/figures/film.py RUN handover_block 0 docs/figures/handover.webp``. Over each picture: the tip paths of the
M candidates of the decision in force, the chosen one in blue; below it their scores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw, ImageFont

import robotest
from robotest.embodiment.workcell import SIDES
from robotest.envs.dual_arm.suite import DualArmEnv, DualArmSuite
from robotest.runs.episode_file import Recording

CAMERA, PICTURE, CROP = "front", (384, 640), (112, 64, 528, 324)
"""Which camera, how large its picture is [px, height and width], and which part of it is shown."""
STRIDE, FPS, HOLD = 2, 15, 24
"""Control steps a frame, frames a second, and frames for which the last one stays."""
WIDTH, HEAD, FOOT, GAP = CROP[2] - CROP[0], 30, 76, 8
INK, PAPER, DIM, CHOSEN = "#f2f2f2", "#16191d", "#8b96a1", "#3d9bff"
OUTCOMES: Final = {"success": "#35b566", "failure": "#f0533c"}
FINE = 3  # lines are drawn this much larger and then reduced, which smooths them


def panels(recorded: Recording, last: int) -> Iterator[Image.Image]:
    """Yield the panel of one condition for every `STRIDE` steps up to step `last`; a finished episode stands still."""
    env = DualArmSuite().make(recorded.scene.task, recorded.scene.options)
    env.reset(recorded.scene.reset_seed, recorded.episode.index)
    assert recorded.snapshots is not None
    paths = [candidate_paths(env, recorded, d) for d in range(len(recorded.decision_steps))]
    for step in range(0, last + 1, STRIDE):
        shown = min(step, recorded.episode.steps)
        env.restore(recorded.snapshots[shown])
        decision = int(np.searchsorted(recorded.decision_steps, shown, side="right")) - 1
        yield panel(env, recorded, shown, decision, paths[decision])
    env.close()


def candidate_paths(env: DualArmEnv, recorded: Recording, decision: int) -> Float64[np.ndarray, "M 2 H+1 2"]:
    """Return where the tips of both arms would go under each candidate of a decision [px of the whole picture]."""
    assert recorded.snapshots is not None
    env.restore(recorded.snapshots[recorded.decision_steps[decision]])
    height, width = PICTURE
    per_arm = recorded.candidates.shape[-1] // len(SIDES)
    paths = np.empty((recorded.candidates.shape[1], len(SIDES), recorded.candidates.shape[2] + 1, 2))
    for m, chunk in enumerate(recorded.candidates[decision]):
        for arm, start in enumerate(env.commanded[:, :3]):
            offsets = [np.zeros(3), *chunk[:, arm * per_arm : arm * per_arm + 3]]
            seen = [env.world.project(CAMERA, width / height, start + offset) for offset in offsets]
            paths[m, arm] = (np.array(seen) + 1) / 2 * (width, height)
    return paths


def panel(
    env: DualArmEnv, recorded: Recording, step: int, decision: int, paths: Float64[np.ndarray, "M 2 H+1 2"]
) -> Image.Image:
    """Lay out one condition: its name, the picture with the candidates' paths, their scores, and the outcome."""
    picture = Image.fromarray(env.render(CAMERA, *PICTURE)).convert("RGBA")
    chosen = int(recorded.chosen[decision])
    picture.alpha_composite(drawn(paths, chosen))
    canvas = Image.new("RGB", (WIDTH, HEAD + CROP[3] - CROP[1] + FOOT), PAPER)
    canvas.paste(picture.crop(CROP).convert("RGB"), (0, HEAD))
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 6), recorded.episode.condition, INK, ImageFont.load_default(17))
    over = step == recorded.episode.steps
    state, colour = (recorded.episode.outcome, OUTCOMES) if over else (f"step {step}", {})
    draw.text((WIDTH - 8, 6), state, colour.get(state, DIM), ImageFont.load_default(17), anchor="ra")
    bars(draw, recorded.scores[decision], chosen, decision)
    return canvas


def drawn(paths: Float64[np.ndarray, "M 2 H+1 2"], chosen: int) -> Image.Image:
    """Return a transparent picture of the paths, the chosen one on top."""
    layer = Image.new("RGBA", (FINE * PICTURE[1], FINE * PICTURE[0]))
    draw = ImageDraw.Draw(layer)
    for m in sorted(range(len(paths)), key=lambda m: m == chosen):
        colour, width = (CHOSEN, 3) if m == chosen else ("#ffffffb0", 1.4)
        for path in paths[m]:
            draw.line([tuple(FINE * point) for point in path], colour, round(FINE * width), joint="curve")
    return layer.resize(PICTURE[::-1], Image.Resampling.LANCZOS)


def bars(draw: ImageDraw.ImageDraw, scores: Sequence[float], chosen: int, decision: int) -> None:
    """Draw the scores of a decision from its lowest to its highest."""
    floor, room, left, width = HEAD + CROP[3] - CROP[1] + FOOT - 8, FOOT - 24, 128, (WIDTH - 144) / len(scores)
    draw.text((8, floor - 46), f"decision {decision + 1}", INK, ImageFont.load_default(14))
    draw.text((8, floor - 26), f"scores of {len(scores)}", DIM, ImageFont.load_default(14))
    low, high = min(scores), max(scores)
    for m, score in enumerate(scores):
        x, height = left + m * width, 4 + (room - 4) * (score - low) / (high - low or 1)
        draw.rectangle((x, floor - height, x + width - 5, floor), CHOSEN if m == chosen else "#4a545d")


def main(run: Path, task: str, index: int, out: Path) -> None:
    """Write the film."""
    read = robotest.load_run(run)
    recordings = [read.recording(condition, task, index) for condition in read.arguments.verifiers]
    last = max(recorded.episode.steps for recorded in recordings)
    frames = []
    for sides in zip(*(panels(recorded, last + STRIDE - 1) for recorded in recordings), strict=True):
        frame = Image.new("RGB", (len(sides) * (WIDTH + GAP) - GAP, sides[0].height), "#000000")
        for i, side in enumerate(sides):
            frame.paste(side, (i * (WIDTH + GAP), 0))
        frames.append(frame)
    durations = [1000 // FPS] * (len(frames) - 1) + [HOLD * 1000 // FPS]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=55, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
