from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from robotest.config import TrainConfig
from robotest.demonstrations.files import DatasetSpec, Demonstration, DemonstrationInfo, DemonstrationWriter
from robotest.errors import ArtifactError, DivergedError, InterruptedRunError, SpecMismatchError
from robotest.loading import load_condition
from robotest.policies import mini_vla, training
from robotest.policies.mini_vla_network import cell_centres
from robotest.policies.training import train
from robotest.specs import Component, VectorSpec
from robotest.types import Observation
from robotest.verifiers.fitted import demonstrations_of

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40)}
PX, HORIZON, BOW = 32, 8, 0.5
SPEC = DatasetSpec(
    env="squares",
    action=VectorSpec("tip", (Component("tip", 2, "m", "position_xy", -2, 2, "chunk_start"),)),
    state=VectorSpec("tip", (Component("tip", 2, "m", "position_xy", -2, 2),)),
    cameras={"head": (PX, PX)},
    control_dt=0.1,
    mixture={"left": 0.5, "right": 0.5},
    n_points=1,
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Two squares, one of which is named, and a path to it that bows to one side."""

    image: np.ndarray
    goal: np.ndarray
    other: np.ndarray
    instruction: str
    path: np.ndarray


def scene(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    image = rng.integers(110, 130, (PX, PX, 3), np.uint8)
    left, right = rng.integers(3, PX // 2 - 3), rng.integers(PX // 2 + 3, PX - 3)
    places = np.array([[left, rng.integers(3, PX - 3)], [right, rng.integers(3, PX - 3)]])[rng.permutation(2)]
    for (x, y), colour in zip(places, COLOURS.values(), strict=True):
        image[y - 2 : y + 2, x - 2 : x + 2] = colour
    named = int(rng.integers(2))
    goals = places / PX * 2 - 1
    t = np.linspace(0, 1, HORIZON)[:, None]
    bow = BOW * rng.choice([-1, 1]) * np.sin(np.pi * t) * np.array([[0, 1]])
    return Scene(
        image, goals[named], goals[1 - named], f"go to the {list(COLOURS)[named]} square", goals[named] * t + bow
    )


def demonstration(seed: int) -> Demonstration:
    """The chunk that starts at step 0 is the whole path; the picture stays, the state tells the step."""
    shown = scene(seed)
    start = np.array([0.3, -0.2])  # where the tip was commanded to be
    steps = np.arange(HORIZON, dtype=np.float32)
    return Demonstration(
        info=DemonstrationInfo("reach", "clean", "left", seed, shown.instruction, True),
        images={"head": np.repeat(shown.image[None], HORIZON, 0)},
        state=np.stack([steps, 0 * steps], -1),
        actions=(start + shown.path).astype(np.float32),
        anchors=np.tile(start, (HORIZON, 1)).astype(np.float32),
        points=np.tile(shown.goal.astype(np.float32), (HORIZON, 1, 1)),
    )


def write(path: Path, n: int) -> Path:
    with DemonstrationWriter(path, SPEC) as writer:
        for seed in range(n):
            writer.append(demonstration(seed))
    return path


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("demos") / "demos.h5", 20)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(data: Path, out: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        data, out, steps=6, batch=4, draws=2, horizon=HORIZON, warmup=2, log_every=2, checkpoint_every=2
    )
    return dataclasses.replace(config, **changes)


def ignore(step: int, total: int, loss: float) -> None:
    """Ignore the progress."""


def stop_at(last: int) -> training.Progress:
    def progress(step: int, total: int, loss: float) -> None:
        if step == last:
            raise KeyboardInterrupt

    return progress


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(mini_vla.read(path).weights)


def test_a_policy_comes_out(demos: Path, tmp_path: Path) -> None:
    seen = []
    path = train(tiny(demos, tmp_path), lambda step, total, loss: seen.append((step, total, np.isfinite(loss))))
    assert seen == [(step, 6, True) for step in range(1, 7)]
    policy = mini_vla.load(path)
    assert policy.spec.action == SPEC.action
    assert policy.spec.horizon == HORIZON
    assert path.stat().st_size < 5e6
    lines = [json.loads(line) for line in (tmp_path / training.LOG_NAME).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(np.isfinite(line["loss"]) and np.isfinite(line["held_out_loss"]) for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == [mini_vla.FILE_NAME, training.LOG_NAME]


def test_interrupted_training_continues_to_the_same_weights(demos: Path, tmp_path: Path) -> None:
    whole = weights(train(tiny(demos, tmp_path / "whole"), ignore))
    with pytest.raises(InterruptedRunError, match="step 3 of 6"):
        train(tiny(demos, tmp_path / "parts"), stop_at(3))
    steps: list[int] = []
    path = train(tiny(demos, tmp_path / "parts"), lambda step, *_: steps.append(step))
    assert steps == [4, 5, 6]
    parts = weights(path)
    for name, weight in whole.items():
        assert torch.equal(weight, parts[name]), name


def test_another_seed_other_weights(demos: Path, tmp_path: Path) -> None:
    first, second = (weights(train(tiny(demos, tmp_path / str(s), seed=s, steps=1), ignore)) for s in (0, 1))
    name = "expert.embed.weight"
    assert not torch.equal(first[name], second[name])


def test_a_checkpoint_of_other_settings_is_refused(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(tiny(demos, tmp_path), stop_at(2))
    with pytest.raises(ArtifactError, match="other settings"):
        train(tiny(demos, tmp_path, batch=5), ignore)
    (tmp_path / training.CHECKPOINT_NAME).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="damaged"):
        train(tiny(demos, tmp_path), ignore)


def test_unusable_data_is_refused(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no demonstration"):
        train(tiny(write(tmp_path / "empty.h5", 0), tmp_path), ignore)
    with pytest.raises(ArtifactError, match="cannot write policy folder"):
        train(tiny(demos, demos / "below"), ignore)
    mixed = dataclasses.replace(SPEC, cameras={"head": (PX, PX), "wrist": (PX, PX + 4)})
    with DemonstrationWriter(tmp_path / "mixed.h5", mixed) as writer:
        extra = {"wrist": np.zeros((HORIZON, PX, PX + 4, 3), np.uint8)}
        plain = demonstration(0)
        writer.append(dataclasses.replace(plain, images={**plain.images, **extra}))
    with pytest.raises(SpecMismatchError, match=r"has images of sizes .* all must be equal"):
        train(tiny(tmp_path / "mixed.h5", tmp_path), ignore)


def test_normalised_labels_and_held_out_demonstrations(demos: Path, tmp_path: Path) -> None:
    config = tiny(demos, tmp_path)
    _, frames, normalisation = training.load_frames(config)
    assert len(frames.held_out) == HORIZON  # 5 % of 20
    assert not set(frames.held_out) & set(frames.train)
    np.testing.assert_allclose(frames.labels.mean(0), 0, atol=1e-4)
    assert frames.labels.std(0).max() <= 1 + 1e-4
    assert normalisation.state_std.min() > 0  # a state that never changes
    assert np.isfinite(frames.state).all()


def test_a_number_that_never_changes_is_not_blown_up() -> None:
    labels = np.zeros((10, 4, 2), np.float32)
    labels[:, 1:, 0] = np.linspace(-1, 1, 10)[:, None]
    found = training.statistics(labels, np.zeros((10, 3), np.float32))
    np.testing.assert_allclose(found.action_std[:, 0], np.array([0.05, 1, 1, 1]) * labels[:, 1, 0].std(), rtol=1e-5)
    np.testing.assert_allclose(found.action_std[:, 1], 1e-4)


def test_augmentation_off_is_the_image(demos: Path, tmp_path: Path) -> None:
    config = tiny(demos, tmp_path, shift_px=0, colour=0, word_dropout=0, state_noise=0)
    _, frames, _ = training.load_frames(config)
    batch = training.draw(frames, config, 0)
    again = training.draw(frames, config, 0)
    assert torch.equal(batch.images, again.images)
    first = mini_vla.scale_images(torch.from_numpy(frames.images))
    assert all((first == image).flatten(1).all(1).any() for image in batch.images)
    shifted = training.draw(frames, dataclasses.replace(config, shift_px=3), 0)
    assert not torch.equal(batch.images, shifted.images)
    assert bool(((batch.time >= 0) & (batch.time < 1)).all())


def test_points_move_with_the_picture(demos: Path, tmp_path: Path) -> None:
    """The named square stays where the point says, whatever the shift."""
    config = tiny(demos, tmp_path, batch=40, shift_px=3, colour=0, word_dropout=0)
    _, frames, _ = training.load_frames(config)
    batch = training.draw(frames, config, 0)
    pixels = ((batch.points[:, 0] + 1) * PX / 2).floor().long().clamp(0, PX - 1)
    colours = batch.images[torch.arange(40), 0, :, pixels[:, 1], pixels[:, 0]]
    painted = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    nearest = (colours[:, None] - painted).abs().amax(-1).amin(-1)
    assert (nearest < 0.01).float().mean() > 0.95  # a square may leave the picture


def test_pointing_loss_is_smallest_at_the_point_and_ignores_what_is_not_marked() -> None:
    points = torch.tensor([[[0.1, -0.6], [0.5, 0.5]], [[torch.nan, torch.nan], [-0.2, 0.3]]])
    apart = (points[..., None, :] - cell_centres(6, 12)) * torch.tensor([6.0, 3.0])
    perfect = (-apart.square().sum(-1) / (2 * 0.7**2)).nan_to_num().reshape(2, 2, 6, 12)
    assert training.pointing_loss(perfect, points) == pytest.approx(0, abs=1e-5)
    assert training.pointing_loss(perfect.flip(-1), points) > 1
    spoilt = perfect.clone()
    spoilt[1, 0] = torch.randn(6, 12)
    assert training.pointing_loss(spoilt, points) == pytest.approx(0, abs=1e-5)
    assert training.pointing_loss(perfect, torch.full((2, 2, 2), torch.nan)) == 0
    more_maps = torch.cat([perfect, torch.randn(2, 3, 6, 12)], 1)
    assert training.pointing_loss(more_maps, points) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_batch_is_from_the_start(demos: Path, tmp_path: Path, share: float) -> None:
    config = tiny(demos, tmp_path, batch=8, start_share=share, state_noise=0)
    _, frames, _ = training.load_frames(config)
    late = np.unique(frames.state[frames.step >= training.START_STEPS, 0])
    drawn = training.draw(frames, config, 0).state[:, 0].numpy()
    assert not np.isin(drawn[: round(8 * share)], late).any()
    assert share == 1.0 or np.isin(drawn, late).any()


def test_left_and_right_share_a_trunk() -> None:
    assert training.trunks(("head", "left_wrist", "right_wrist")) == (0, 1, 1)
    assert training.trunks(("top", "side")) == (0, 1)


@pytest.mark.slow
def test_it_learns_to_see_to_listen_and_both_modes(tmp_path: Path) -> None:
    data = write(tmp_path / "demos.h5", 400)
    config = TrainConfig(
        data, tmp_path, steps=220, batch=16, draws=2, horizon=HORIZON, warmup=30, ema=0.98, shift_px=0, log_every=44
    )
    policy = mini_vla.load(train(config, ignore))
    lines = [json.loads(line) for line in (tmp_path / training.LOG_NAME).read_text().splitlines()]
    assert lines[-1]["held_out_loss"] < 0.5 * lines[0]["held_out_loss"]
    assert lines[-1]["held_out_pointing"] < 0.05  # guessing between the two squares would cost 0.69
    right, sides = [], []
    for seed in range(10_000, 10_040):
        shown = scene(seed)
        seen = Observation({"head": shown.image}, np.zeros(2, np.float32), shown.instruction, 0.0)
        paths = policy.sample([seen], [seed], 8)[0].actions
        ends = paths[:, -1]
        right.append(np.linalg.norm(ends - shown.goal, axis=1) < np.linalg.norm(ends - shown.other, axis=1))
        sides.append((paths[:, HORIZON // 2, 1] - ends[:, 1] / 2 > 0).mean())
    assert np.mean(right) > 0.9
    assert np.mean([0 < share < 1 for share in sides]) > 0.7


def damage(path: Path, key: str, value: float) -> None:
    with h5py.File(path, "a") as file:
        file[f"data/demo_3/{key}"][5, 1] = value


@pytest.mark.parametrize(("key", "value"), [("actions", np.nan), ("anchors", np.inf), ("obs/state", np.nan)])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_trained(tmp_path: Path, key: str, value: float) -> None:
    data = write(tmp_path / "demos.h5", 4)
    damage(data, key, value)
    with pytest.raises(ArtifactError, match=f"demos.h5: demo_3: {key} is NaN, infinite or too large at step 5"):
        train(tiny(data, tmp_path / "policy"), ignore)
    assert not list((tmp_path / "policy").iterdir())


def test_numbers_whose_spread_is_not_finite_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "demos.h5", 4)
    damage(data, "actions", 1e30)
    with pytest.raises(ArtifactError, match=r"its numbers are too large \(.* is not finite in float32\)"):
        train(tiny(data, tmp_path / "policy"), ignore)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    seen = 0
    plain = training.losses

    def failing(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal seen
        flow, pointing = plain(*arguments)
        seen += arguments[0].training
        if seen < 5 or not arguments[0].training:
            return flow, pointing
        if what == "loss":
            return flow * torch.nan, pointing
        return flow + torch.sqrt(0 * flow), pointing  # whose slope is infinite

    monkeypatch.setattr(training, "losses", failing)
    with pytest.raises(DivergedError, match=r"at step 5 of 6: the loss or its gradient .*train.ckpt.*kept") as caught:
        train(tiny(demos, tmp_path), ignore)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [training.CHECKPOINT_NAME, training.LOG_NAME]
    monkeypatch.setattr(training, "losses", plain)
    steps: list[int] = []
    train(tiny(demos, tmp_path), lambda step, *_: steps.append(step))
    assert steps == [5, 6]


def test_bad_weights_replace_neither_checkpoint_nor_policy(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that the last step made non-finite, after its loss was computed."""
    run = training.Run(tiny(demos, tmp_path), *training.load_frames(tiny(demos, tmp_path)))
    run.advance()
    run.checkpoint()
    kept = (tmp_path / training.CHECKPOINT_NAME).read_bytes()
    with torch.no_grad():
        next(run._average.parameters()).fill_(1e30)  # finite, but not in float16
    with pytest.raises(DivergedError, match="no policy is written"):
        run.bundle()
    with torch.no_grad():
        next(run._network.parameters()).fill_(torch.inf)
    with pytest.raises(DivergedError):
        run.checkpoint()
    assert (tmp_path / training.CHECKPOINT_NAME).read_bytes() == kept


def test_the_log_is_json_whatever_the_held_out_loss(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.Run, "held_out_losses", lambda *_: (float("nan"), float("inf")))
    train(tiny(demos, tmp_path, steps=2), ignore)

    def refuse(token: str) -> None:
        raise AssertionError(token)

    (line,) = (tmp_path / training.LOG_NAME).read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["held_out_loss"] is None


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


@pytest.mark.slow
def test_a_finished_policy_is_left_alone(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy"
    config = tiny(demos, out, steps=1)
    path = train(config, ignore)
    before = files(out)
    reported: list[int] = []
    assert train(dataclasses.replace(config, log_every=1), lambda step, *_: reported.append(step)) == path
    with pytest.raises(ArtifactError, match=r"is there already, trained with seed 0 and not 1; .*--overwrite"):
        train(dataclasses.replace(config, seed=1), ignore)
    with pytest.raises(ArtifactError, match=r"is there already, trained on other demonstrations; .*--overwrite"):
        train(dataclasses.replace(config, data=write(tmp_path / "others.h5", 3)), ignore)
    assert (files(out), reported) == (before, [])
    train(dataclasses.replace(config, seed=1, overwrite=True), ignore)
    assert files(out)[path.name][0] != before[path.name][0]
    assert len((out / training.LOG_NAME).read_text().splitlines()) == 1  # of this training alone


def test_a_policy_that_does_not_say_what_it_was_trained_with_is_left_alone(demos: Path, tmp_path: Path) -> None:
    for content in (mini_vla.SHIPPED / mini_vla.FILE_NAME).read_bytes(), b"something else":
        (tmp_path / mini_vla.FILE_NAME).write_bytes(content)
        with pytest.raises(ArtifactError, match="is there already, with unknown training settings"):
            train(tiny(demos, tmp_path), ignore)
        assert (tmp_path / mini_vla.FILE_NAME).read_bytes() == content


@pytest.mark.slow
def test_an_unfinished_training_continues_with_the_same_demonstrations_alone(demos: Path, tmp_path: Path) -> None:
    """The same number of frames and the same statistics do not make them the same."""
    out = tmp_path / "policy"
    with pytest.raises(InterruptedRunError):
        train(tiny(demos, out), stop_at(3))
    other = tmp_path / "other.h5"
    other.write_bytes(demos.read_bytes())
    with h5py.File(other, "a") as file:
        file["data/demo_3/obs/images/head"][2, 0, 0] ^= 1
    with pytest.raises(ArtifactError, match="other settings or data"):
        train(tiny(other, out), ignore)
    steps: list[int] = []
    with pytest.raises(InterruptedRunError):
        train(tiny(other, out, overwrite=True), stop_at(3))
    train(tiny(other, out, overwrite=True), lambda step, *_: steps.append(step))
    assert steps == [4, 5, 6]
    lines = [json.loads(line)["step"] for line in (out / training.LOG_NAME).read_text().splitlines()]
    assert lines == [2, 4, 6]


def test_a_checkpoint_that_is_not_finite_is_damaged(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(tiny(demos, tmp_path), stop_at(3))
    path = tmp_path / training.CHECKPOINT_NAME
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    next(iter(tensors.values())).fill_(torch.nan)
    save_file(tensors, path, metadata)
    with pytest.raises(ArtifactError, match="is damaged"):
        train(tiny(demos, tmp_path), ignore)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"learning_rate": np.nan}, {"learning_rate": 0.0}])
def test_settings_that_train_nothing_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecMismatchError, match=f"{next(iter(wrong))} is"):
        TrainConfig(tmp_path, tmp_path, **wrong)


def test_a_policy_knows_its_demonstrations(demos: Path, tmp_path: Path) -> None:
    path = train(tiny(demos, tmp_path, steps=1), ignore)
    assert demonstrations_of(path) == demos
    command = f"robotest fit --verifier knn --out {tmp_path}/knn.safetensors --policy {tmp_path} --data {demos}"
    with pytest.raises(ArtifactError, match=command):
        load_condition("knn", mini_vla.load(path), tmp_path)
