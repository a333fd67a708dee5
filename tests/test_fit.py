from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotest.demonstrations import (
    DatasetSpec,
    Demonstration,
    DemonstrationFile,
    DemonstrationInfo,
    DemonstrationWriter,
)
from robotest.errors import ArtifactError, InvalidActionError, SpecMismatchError
from robotest.registry import resolve
from robotest.testing import check_verifier
from robotest.types import Candidates, EnvOptions, Policy
from robotest.verifiers import fit as fitting
from robotest.verifiers.artifact import Artifact
from robotest.verifiers.fit import (
    FitConfig,
    Kind,
    SearchConfig,
    SearchedFeatures,
    fit,
    fit_features,
    hold_out,
    nearest,
    search,
)
from robotest.verifiers.settings import CfnSettings, KnnSettings, LeverageSettings
from tests.fakes import ACTION, HORIZON, STATE, PointEnv, PointPolicy

CFN = CfnSettings(hidden=16, min_steps=12, epochs=1)


def demonstration(index: int, n_steps: int = 9, camera: int = 16) -> Demonstration:
    """A point that goes straight to its target; the recorded state is exact, so that the policy knows the way too."""
    angle = 0.3 * index
    target = 0.3 * np.array([np.cos(angle), np.sin(angle)])
    tips = target * np.minimum(1, np.arange(n_steps + 1) * 0.05 / 0.3)[:, None]
    return Demonstration(
        info=DemonstrationInfo("near", "clean", "clean", index, "reach the target", success=True),
        images={"top": np.zeros((n_steps, camera, camera, 3), np.uint8)},
        state=np.concatenate([tips[:-1], np.tile(target, (n_steps, 1))], axis=1).astype(np.float32),
        actions=np.concatenate([tips[1:], np.full((n_steps, 1), 0.5)], axis=1).astype(np.float32),
        anchors=np.concatenate([tips[:-1], np.zeros((n_steps, 1))], axis=1).astype(np.float32),
        points=np.zeros((n_steps, 0, 2), np.float32),
    )


def write(path: Path, n: int = 12, camera: int = 16) -> Path:
    spec = DatasetSpec("fake", ACTION, STATE, {"top": (camera, camera)}, 0.1, {"clean": 1.0})
    with DemonstrationWriter(path, spec) as writer:
        for index in range(n):
            writer.append(demonstration(index, camera=camera))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "demos.h5")


def config(data: Path, verifier: Kind = "leverage", **changes: object) -> FitConfig:
    base = FitConfig(
        data=data,
        out=data.with_name(f"{verifier}.safetensors"),
        policy="tests.fakes:policy",
        verifier=verifier,
        search=SearchConfig(candidates=4),
        cfn=CFN,
        leverage=LeverageSettings(n_features=64, rank=64),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def silent(*_: object) -> None:
    pass


@pytest.mark.parametrize("verifier", ["leverage", "knn", "cfn"])
def test_what_is_fitted_loads_by_its_registered_name_and_passes_the_contract(data: Path, verifier: Kind) -> None:
    artifact = fit(config(data, verifier), silent)
    assert artifact.kind == verifier
    assert artifact.n_samples == 11 * 5  # of 12 demonstrations one is held out; 9 steps, every second
    assert [level for level, _ in artifact.quantiles][:3] == [0.001, 0.01, 0.05]
    policy = PointPolicy()
    loaded = resolve("verifier", verifier)(policy.spec, config(data, verifier).out)
    check_verifier(loaded, policy, PointEnv("near", EnvOptions(image_size=16)))


def test_the_search_keeps_the_candidate_that_goes_the_demonstrated_way(data: Path) -> None:
    with DemonstrationFile(data) as file:
        searched = search(PointPolicy(), file, SearchConfig(candidates=16, stride=1), 4, silent)
        states = np.concatenate([d.state for d in file])
    way = states[:, 2:] - states[:, :2]
    far = np.linalg.norm(way, axis=1) > 0.1
    cosine = np.sum(searched.features["hidden"][:, -1, :2] * way, axis=1)
    assert (cosine[far] > 0).all()
    assert searched.features["hidden"].shape == (12 * 9, HORIZON, 4)
    assert searched.features["hidden"].dtype == np.float16
    np.testing.assert_array_equal(searched.demonstration, np.repeat(np.arange(12), 9))


def test_more_candidates_come_nearer(data: Path) -> None:
    with DemonstrationFile(data) as file:
        one, many = (search(PointPolicy(), file, SearchConfig(candidates=n), 8, silent) for n in (1, 16))
    assert (many.distance <= one.distance).all()
    assert many.distance.mean() < 0.7 * one.distance.mean()


def test_the_batch_does_not_change_the_result(data: Path) -> None:
    with DemonstrationFile(data) as file:
        one, many = (search(PointPolicy(), file, SearchConfig(candidates=3), batch, silent) for batch in (1, 100))
    np.testing.assert_array_equal(one.features["hidden"], many.features["hidden"])


def test_nearest_measures_in_the_policys_scale() -> None:
    actions = np.zeros((2, 1, 2), np.float32)
    actions[0, 0, 0], actions[1, 0, 1] = 0.2, 1.0  # two spreads off in one number; one spread off in the other
    features = np.arange(2, dtype=np.float32).reshape(2, 1, 1)
    found, distance = nearest(
        Candidates(actions, {"hidden": features}), np.zeros((1, 2), np.float32), np.array([[0.1, 1.0]], np.float32)
    )
    assert found == 1
    assert distance == pytest.approx(np.sqrt(0.5))


def test_three_fits_search_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[SearchConfig] = []

    def counted(policy: Policy, file: DemonstrationFile, chosen: SearchConfig, *rest: Any) -> SearchedFeatures:
        searches.append(chosen)
        return search(policy, file, chosen, *rest)

    monkeypatch.setattr(fitting, "search", counted)
    kinds: tuple[Kind, ...] = ("leverage", "knn", "cfn")
    for verifier in kinds:
        fit(config(data, verifier), silent)
    assert len(searches) == 1
    fit(config(data, search=SearchConfig(candidates=5)), silent)
    assert len(searches) == 2


def test_the_features_file_of_another_search_is_refused(data: Path, tmp_path: Path) -> None:
    features = tmp_path / "features.safetensors"
    fit(config(data, features=features), silent)
    with pytest.raises(ArtifactError, match="another policy"):
        fit(config(data, features=features, policy="tests.fakes:other_policy"), silent)
    features.write_bytes(features.read_bytes()[:50])
    with pytest.raises(ArtifactError, match="damaged"):
        fit(config(data, features=features), silent)


def test_the_same_arguments_give_the_same_file(data: Path, tmp_path: Path) -> None:
    first = config(data)
    second = dataclasses.replace(first, out=tmp_path / "again.safetensors", features=tmp_path / "f.safetensors")
    fit(first, silent)
    fit(second, silent)
    assert first.out.read_bytes() == second.out.read_bytes()


def test_progress_is_told_to_the_end(data: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fit(config(data), lambda *p: told.append(p))
    assert [p for p in told if p[0] == "feature search"][-1][1:] == (60, 60)
    assert told[-1] == ("fit leverage", 1, 1)


def test_max_samples_are_spread_over_all_demonstrations(data: Path) -> None:
    with DemonstrationFile(data) as file:
        searched = search(PointPolicy(), file, SearchConfig(candidates=1, stride=1, max_samples=24), 8, silent)
    assert len(searched.features["hidden"]) == 24
    assert set(searched.demonstration) == set(range(12))


def test_whole_demonstrations_are_held_out() -> None:
    demonstrations = np.repeat(np.arange(20), 7).astype(np.int32)
    out = hold_out(demonstrations, 0.25, 0)
    assert out.sum() == 5 * 7
    assert not set(demonstrations[out]) & set(demonstrations[~out])
    assert not hold_out(np.zeros(9, np.int32), 0.9, 0).any()


@pytest.mark.parametrize("settings", [CFN, KnnSettings(), LeverageSettings(n_features=64)])
def test_one_frame_can_be_fitted_without_thresholds(settings: fitting.Settings) -> None:
    searched = SearchedFeatures(
        {"hidden": np.ones((1, 3, 4), np.float16)}, np.zeros(1, np.int32), np.zeros(1, np.float32), "x"
    )
    artifact = fit_features(searched, settings, 0.1, 0, silent)
    assert artifact.quantiles == ()


def test_a_feature_the_policy_does_not_give_is_refused_before_the_search(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "search", lambda *_: pytest.fail("searched"))
    with pytest.raises(SpecMismatchError, match=r"'hiden'.*gives hidden.*--feature"):
        fit(config(data, leverage=LeverageSettings(feature="hiden")), silent)


def test_a_policy_that_gives_nan_is_an_error(data: Path) -> None:
    with pytest.raises(InvalidActionError, match="not finite"):
        fit(config(data, policy="tests.fakes:broken_policy"), silent)


def test_a_policy_for_other_cameras_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecMismatchError, match="'top'"):
        fit(config(write(tmp_path / "large.h5", camera=24)), silent)


def test_no_demonstrations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no demonstrations"):
        fit(config(write(tmp_path / "empty.h5", n=0)), silent)


@pytest.mark.parametrize("name", ["candidates", "stride", "max_samples"])
def test_zero_is_not_a_number_of_anything(name: str) -> None:
    with pytest.raises(SpecMismatchError, match=f"{name} is 0"):
        SearchConfig(**{name: 0})


def test_the_artifact_on_disk_is_the_one_returned(data: Path) -> None:
    artifact = fit(config(data, "knn"), silent)
    assert Artifact.load(config(data, "knn").out, "knn").quantiles == artifact.quantiles
