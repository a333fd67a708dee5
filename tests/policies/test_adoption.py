"""An interface is put together from what a checkpoint and an environment say; the rest is asked for, never guessed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotest.envs.robosuite.world import CONTROL_HZ, action_layout, state_layout
from robotest.errors import ArtifactError, RobotestError
from robotest.policies import adoption
from robotest.policies.adoption import CheckpointFacts, Told, adopt
from robotest.specs import EnvSpec
from robotest.types import Observation

LIBERO = EnvSpec(
    name="libero/libero_10",
    task="t",
    setting="openpi",
    action=action_layout(1),
    state=state_layout(1),
    cameras={"agentview": (224, 224), "robot0_eye_in_hand": (224, 224)},
    control_dt=1 / CONTROL_HZ,
    max_steps=520,
)
CONFIG = {"chunk_size": 50, "max_action_dim": 32, "vlm_config": {"vision_config": {"image_size": 224}}}
OPENPI = {part: {"mean": [0.5] * 32, "std": [0.25] * 32, "q01": [0.0] * 32} for part in ("actions", "state")}
DIFFERENCES = ("position", "rotation")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "config.json", CONFIG)
    return tmp_path


def put(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_pi0_on_libero_by_openpis_conventions(folder: Path) -> None:
    put(folder / "assets" / "physical-intelligence" / "libero" / "norm_stats.json", {"norm_stats": OPENPI})
    meant = adopt(CheckpointFacts.read(folder, "pi0"), LIBERO, Told(differences=DIFFERENCES))
    assert [(c.camera, c.slot) for c in meant.cameras] == [
        ("agentview", "base_0_rgb"),
        ("robot0_eye_in_hand", "left_wrist_0_rgb"),
    ]
    assert (meant.horizon, meant.control_hz, meant.prompt) == (50, 20.0, "{instruction}\n")
    assert meant.action_normalisation.mean == (0.5,) * 7
    assert (meant.state_normalisation.std, meant.state_normalisation.epsilon) == ((0.25,) * 8, 1e-6)
    assert meant.added_state == {"position": "position", "rotation": "rotation"}
    meant.spec("x", {}, "").require_fits(LIBERO)


def test_statistics_of_the_librarys_processor(folder: Path) -> None:
    numbers = {f"{part}_{key}": [1.0] * n for part, n in (("actions", 7), ("state", 8)) for key in ("mean", "std")}
    put(folder / "processor_config.json", numbers)
    meant = adopt(CheckpointFacts.read(folder, "pi0"), LIBERO, Told(differences=()))
    assert (meant.state_normalisation.mean, meant.state_normalisation.epsilon) == ((1.0,) * 8, 1e-8)
    assert meant.added_state == {}


def test_everything_that_is_missing_is_asked_for_at_once(folder: Path) -> None:
    wide = dataclasses.replace(LIBERO, name="other", cameras={"head": (224, 448)})
    with pytest.raises(RobotestError) as caught:
        adopt(CheckpointFacts.read(folder, "pi0"), wide, Told())
    message = str(caught.value)
    assert "\n" not in message
    assert "--statistics FILE" in message
    assert "--differences none, or NAMES" in message
    assert "as differences to the state (openpi's extra_delta_transform), among position, rotation; " in message
    assert "--camera CAMERA=SLOT for each picture, in the model's order, among head" in message
    put(folder / "norm_stats.json", OPENPI)
    with pytest.raises(RobotestError, match=r"give --padding centre \(openpi\) or end \(transformers\)") as caught:
        adopt(CheckpointFacts.read(folder, "pi0"), wide, Told({"head": "base"}, ()))
    assert "--camera" not in str(caught.value)
    assert adopt(CheckpointFacts.read(folder, "pi0"), wide, Told({"head": "base"}, (), "end")).padding == "end"


def test_what_is_told_must_exist(folder: Path) -> None:
    put(folder / "norm_stats.json", OPENPI)
    read = CheckpointFacts.read(folder, "pi0")
    with pytest.raises(RobotestError, match="--camera head given; libero/libero_10 has agentview, robot0_eye_in_hand"):
        adopt(read, LIBERO, Told({"head": "base"}, ()))
    with pytest.raises(RobotestError, match="components of equal size are needed: the action has position"):
        adopt(read, LIBERO, Told(differences=("gripper",)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {}}, r"config\.json is not a pi0 checkpoint's: it lacks 'vlm_config'"),
        ({"config.json": []}, r"config\.json is damaged \(it holds a list\)"),
        (
            {"a/norm_stats.json": OPENPI, "b/norm_stats.json": OPENPI},
            r"2 files have statistics .*; choose one with --stat",
        ),
        ({"norm_stats.json": {"actions": {"mean": [1]}, "state": {}}}, r"norm_stats\.json is not openpi's .*KeyError"),
    ],
)
def test_damaged_files(folder: Path, files: dict[str, Any], message: str) -> None:
    for name, data in files.items():
        put(folder / name, data)
    with pytest.raises(ArtifactError, match=message):
        CheckpointFacts.read(folder, "pi0")


def test_a_file_of_statistics_may_lie_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ArtifactError, match=r"no config\.json in .*; give the folder of a checkpoint"):
        CheckpointFacts.read(folder / "nothing", "pi0")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "stats.json"
    put(elsewhere, OPENPI)
    assert CheckpointFacts.read(folder, "pi0", elsewhere).source == elsewhere
    put(elsewhere, {"actions": OPENPI["actions"]})
    with pytest.raises(ArtifactError, match=r"stats\.json has no statistics of actions and state"):
        CheckpointFacts.read(folder, "pi0", elsewhere)


def test_the_picture_of_what_it_sees(folder: Path) -> None:
    put(folder / "norm_stats.json", OPENPI)
    meant = adopt(CheckpointFacts.read(folder, "pi0"), LIBERO, Told(differences=()))
    images = {
        camera: np.full((224, 224, 3), value, np.uint8) for camera, value in zip(LIBERO.cameras, (10, 90), strict=True)
    }
    sheet = adoption.picture(meant, Observation(images, np.zeros(8, np.float32), "put it down", 0.0), 224)
    assert sheet.shape == (224 + 32, 448, 3)
    assert (sheet[32:, :224] == 10).all()
    assert (sheet[32:, 224:] == 90).all()
