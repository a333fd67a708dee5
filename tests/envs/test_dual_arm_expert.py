"""The experts succeed in every style, and their demonstrations are suitable for training."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotest.config import CollectConfig
from robotest.demonstrations.collect import collect, demonstrate
from robotest.demonstrations.files import DemonstrationFile, chunk_labels
from robotest.envs.dual_arm.expert import MIXTURE, experts
from robotest.envs.dual_arm.suite import suite
from robotest.envs.expert_styles import STYLES
from robotest.errors import RobotestError, UnknownNameError
from robotest.randomness import derive
from robotest.types import EnvOptions
from tests.doubles.thorough import THOROUGH

STARTS = 5 if THOROUGH else 3


def successes(task: str, setting: str, style: str, n: int) -> int:
    with closing(suite.make(task, EnvOptions(setting=setting))) as env:
        return sum(
            demonstrate(env, experts, derive("test", task, i), style, picture=False).info.success for i in range(n)
        )


@pytest.mark.slow
@pytest.mark.parametrize("task", suite.tasks)
@pytest.mark.parametrize(("setting", "failures"), [("clean", 1), ("randomized", 3)])
def test_the_expert_succeeds(task: str, setting: str, failures: int) -> None:
    starts, failures = (20, failures) if THOROUGH else (7, failures // 3)
    assert successes(task, setting, "clean", starts) >= starts - failures


@pytest.mark.slow
@pytest.mark.parametrize("style", sorted(set(STYLES) - {"clean"}))
def test_every_style_succeeds_more_often_than_not(style: str) -> None:
    for task in suite.tasks:
        assert successes(task, "clean", style, STARTS) > STARTS / 2, (task, style)


def test_styles_differ_from_the_clean_way() -> None:
    with closing(suite.make("place_block_pad", EnvOptions())) as env:
        paths = {s: demonstrate(env, experts, 5, s, 0.0, picture=False).actions for s in STYLES}
    clean = paths.pop("clean")
    for style, path in paths.items():
        n = min(len(path), len(clean))
        assert np.abs(path[:n] - clean[:n]).max() > 0.01, style


def test_labels_lead_back_to_the_clean_path() -> None:
    """Noise moves the arm, not the label: set-points are smooth while the anchors are not."""
    with closing(suite.make("stack_blocks_two", EnvOptions())) as env:
        noisy = demonstrate(env, experts, 3, picture=False)
    tips = slice(0, 3)
    jerk = {
        name: np.abs(np.diff(values[2:12, tips], n=2, axis=0)).mean()
        for name, values in (("labels", noisy.actions), ("anchors", noisy.anchors))
    }
    assert jerk["labels"] < jerk["anchors"]
    chunk = chunk_labels(noisy.actions, noisy.anchors, 16)
    np.testing.assert_allclose(chunk[4, 0], noisy.actions[4] - noisy.anchors[4], atol=1e-6)


@pytest.mark.slow
def test_collection_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / f"{workers}.h5"
        collect(CollectConfig(out, tasks=("lift_tray",), episodes=3, workers=workers), lambda *_: None)
    # Not byte by byte: lzf begins with whatever lies in memory, and packs equal arrays differently.
    with DemonstrationFile(tmp_path / "1.h5") as one, DemonstrationFile(tmp_path / "2.h5") as two:
        assert one.spec == two.spec
        assert len(one) == len(two) == 3
        for a, b in zip(one, two, strict=True):
            assert a.info == b.info
            for field in ("state", "actions", "anchors", "points", "states"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
            assert a.images.keys() == b.images.keys()
            for camera in a.images:
                np.testing.assert_array_equal(a.images[camera], b.images[camera])


def test_the_mixture_is_a_distribution_over_the_styles() -> None:
    assert set(MIXTURE) == set(STYLES)
    assert sum(MIXTURE.values()) == pytest.approx(1.0)


def test_an_unknown_style_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="hesitant"):
        collect(CollectConfig(tmp_path / "x.h5", style="hesitent"), lambda *_: None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"episodes": 0}, "--episodes 0 given; it must be at least 1"),
        ({"workers": 0}, "--workers 0 given; it must be at least 1"),
        ({"tasks": ("lift_tray", "lift_try")}, "Did you mean 'lift_tray'"),
        ({"env": "tests.doubles.fakes:suite"}, "has no scripted experts"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(RobotestError, match=message):
        collect(CollectConfig(tmp_path / "x.h5", **wrong), lambda *_: None)
    assert not list(tmp_path.iterdir())
