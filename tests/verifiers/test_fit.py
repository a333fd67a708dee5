from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from robotest.cli.main import main
from robotest.config import FitConfig, Kind
from robotest.demonstrations import files
from robotest.demonstrations.files import (
    DatasetSpec,
    Demonstration,
    DemonstrationFile,
    DemonstrationInfo,
    Demonstrations,
    DemonstrationWriter,
)
from robotest.errors import ArtifactError, InvalidActionError, SpecMismatchError
from robotest.registry import resolve
from robotest.testing import check_verifier
from robotest.types import Candidates, EnvOptions, Observation, Policy
from robotest.verifiers import fit as fitting
from robotest.verifiers.fit import Progress, Settings, fit_features, hold_out, nearest, search, settings_of
from robotest.verifiers.fitted import Artifact
from robotest.verifiers.hyperparameters import CfnSettings, KnnSettings, LeverageSettings
from robotest.verifiers.searched import SearchedFeatures, Target, read
from tests.doubles.fakes import ACTION, HORIZON, STATE, PointEnv, PointPolicy

CFN = CfnSettings(hidden=16, min_steps=12, epochs=1)
SMALL: dict[Kind, Settings] = {
    "cfn": CFN,
    "leverage": LeverageSettings(n_features=64, rank=64),
    "knn": KnnSettings(),
}


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
        policy="tests.doubles.fakes:policy",
        verifier=verifier,
        candidates=4,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def fit(config: FitConfig, progress: Progress) -> Artifact:
    """Fit a small verifier."""
    return fitting.fit(config, progress, SMALL[config.verifier])


def searched_by(policy: Policy, data: Demonstrations, chosen: FitConfig) -> SearchedFeatures:
    """Search, and read the file of the search."""
    target = Target(data.path.with_name(f"{chosen.candidates}-{chosen.batch}-{chosen.stride}.safetensors"), "key")
    search(policy, data, chosen, target, silent)
    return read(target, policy.spec)


def out_of(config: FitConfig) -> Path:
    assert config.out is not None
    return config.out


def silent(*_: object) -> None:
    pass


@pytest.mark.parametrize("verifier", ["leverage", "knn", "cfn"])
def test_what_is_fitted_loads_by_its_registered_name_and_passes_the_contract(data: Path, verifier: Kind) -> None:
    artifact = fit(config(data, verifier), silent)
    assert artifact.kind == verifier
    assert artifact.n_samples == 11 * 5  # of 12 demonstrations one is held out; 9 steps, every second
    assert [level for level, _ in artifact.quantiles][:3] == [0.001, 0.01, 0.05]
    policy = PointPolicy()
    loaded = resolve("verifier", verifier)(policy.spec, out_of(config(data, verifier)))
    check_verifier(loaded, policy, PointEnv("near", EnvOptions(image_size=16)))


def test_the_search_keeps_the_candidate_that_goes_the_demonstrated_way(data: Path) -> None:
    with DemonstrationFile(data) as file:
        searched = searched_by(PointPolicy(), file, FitConfig(data, candidates=16, stride=1, batch=4))
        states = np.concatenate([d.state for d in file])
    way = states[:, 2:] - states[:, :2]
    far = np.linalg.norm(way, axis=1) > 0.1
    cosine = np.sum(searched.features["hidden"][:][:, -1, :2] * way, axis=1)
    assert (cosine[far] > 0).all()
    assert searched.features["hidden"].shape == (12 * 9, HORIZON, 4)
    assert searched.features["hidden"][:].dtype == np.float16
    np.testing.assert_array_equal(searched.demonstration, np.repeat(np.arange(12), 9))


def test_more_candidates_come_nearer(data: Path) -> None:
    with DemonstrationFile(data) as file:
        one, many = (searched_by(PointPolicy(), file, FitConfig(data, candidates=n, batch=8)) for n in (1, 16))
    assert (many.distance <= one.distance).all()
    assert many.distance.mean() < 0.7 * one.distance.mean()


def test_the_batch_does_not_change_the_result(data: Path) -> None:
    with DemonstrationFile(data) as file:
        one, many = (searched_by(PointPolicy(), file, FitConfig(data, candidates=3, batch=batch)) for batch in (1, 100))
    np.testing.assert_array_equal(one.features["hidden"][:], many.features["hidden"][:])


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
    searches: list[FitConfig] = []

    def counted(policy: Policy, file: DemonstrationFile, chosen: FitConfig, *rest: Any) -> None:
        searches.append(chosen)
        search(policy, file, chosen, *rest)

    monkeypatch.setattr(fitting, "search", counted)
    kinds: tuple[Kind, ...] = ("leverage", "knn", "cfn")
    for verifier in kinds:
        fit(config(data, verifier), silent)
    assert len(searches) == 1
    fit(config(data, candidates=5, overwrite=True), silent)
    assert len(searches) == 2


def test_the_features_file_of_another_search_is_refused(data: Path, tmp_path: Path) -> None:
    features = tmp_path / "features.safetensors"
    fit(config(data, features=features), silent)
    with pytest.raises(ArtifactError, match="another policy"):
        fit(config(data, features=features, policy="tests.doubles.fakes:other_policy", overwrite=True), silent)
    features.write_bytes(features.read_bytes()[:50])
    with pytest.raises(ArtifactError, match="damaged"):
        fit(config(data, features=features, overwrite=True), silent)


def test_the_same_arguments_give_the_same_file(data: Path, tmp_path: Path) -> None:
    first = config(data)
    second = dataclasses.replace(first, out=tmp_path / "again.safetensors", features=tmp_path / "f.safetensors")
    fit(first, silent)
    fit(second, silent)
    assert out_of(first).read_bytes() == out_of(second).read_bytes()


def test_progress_is_told_to_the_end(data: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fit(config(data), lambda *p: told.append(p))
    assert [p for p in told if p[0] == "feature search"][-1][1:] == (60, 60)
    assert told[-1] == ("fit leverage", 1, 1)


def test_max_samples_are_spread_over_all_demonstrations(data: Path) -> None:
    with DemonstrationFile(data) as file:
        searched = searched_by(PointPolicy(), file, FitConfig(data, candidates=1, stride=1, max_samples=24))
    assert len(searched.features["hidden"]) == 24
    assert set(searched.demonstration) == set(range(12))


def test_whole_demonstrations_are_held_out() -> None:
    files = np.repeat(np.arange(20), 7).astype(np.int32)
    out = hold_out(files, 0.25, 0)
    assert out.sum() == 5 * 7
    assert not set(files[out]) & set(files[~out])
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
        fitting.fit(config(data, feature="hiden"), silent)


def test_a_policy_that_gives_nan_is_an_error(data: Path) -> None:
    with pytest.raises(InvalidActionError, match="not finite"):
        fit(config(data, policy="tests.doubles.fakes:broken_policy"), silent)


def test_a_policy_for_other_cameras_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecMismatchError, match="'top'"):
        fit(config(write(tmp_path / "large.h5", camera=24)), silent)


def test_no_demonstrations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no demonstrations"):
        fit(config(write(tmp_path / "empty.h5", n=0)), silent)


def test_settings_are_the_verifiers_own_but_for_what_is_given(data: Path) -> None:
    assert settings_of(config(data, "cfn")) == CfnSettings()
    assert settings_of(config(data, "leverage", scaling="each")) == LeverageSettings(scaling="each")
    given = {"feature": "residual", "pooling": "first", "scaling": "common"}
    for verifier, kind in (("cfn", CfnSettings), ("leverage", LeverageSettings), ("knn", KnnSettings)):
        assert settings_of(config(data, verifier, **given)) == kind(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["candidates", "stride", "max_samples", "batch"])
def test_zero_is_not_a_number_of_anything(name: str) -> None:
    with pytest.raises(SpecMismatchError, match=f"{name} is 0"):
        FitConfig(Path("demos.h5"), **{name: 0})  # type: ignore[arg-type]


def test_the_artifact_on_disk_is_the_one_returned(data: Path) -> None:
    artifact = fit(config(data, "knn"), silent)
    assert Artifact.load(out_of(config(data, "knn")), "knn").quantiles == artifact.quantiles


def test_what_is_there_is_not_overwritten_unless_asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = out_of(config(data))
    out.write_bytes(b"dear to somebody")
    monkeypatch.setattr(fitting, "policy_and_folder", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ArtifactError, match=r"leverage.safetensors is there already; .*--overwrite"):
        fit(config(data), silent)
    with pytest.raises(ArtifactError, match="is a folder"):
        fit(config(data, out=data.parent, overwrite=True), silent)
    assert out.read_bytes() == b"dear to somebody"


def test_what_is_there_is_overwritten_if_asked(data: Path) -> None:
    out_of(config(data)).write_bytes(b"old")
    fit(config(data, overwrite=True), silent)
    assert Artifact.load(out_of(config(data)), "leverage").n_samples == 55


def test_a_verifier_is_not_put_into_the_folder_of_another_policy(data: Path, tmp_path: Path) -> None:
    """A policy that was not named is the shipped one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    save_file({"weights": np.zeros(1)}, folder / "policy.safetensors", {"fingerprint": "mine"})
    out = folder / "leverage.safetensors"
    with pytest.raises(ArtifactError, match=f"holds policy mine, .*fake-weights; give --policy {folder}"):
        fit(config(data, out=out), silent)
    assert main(["fit", "--data", str(data), "--out", str(out)]) == 2
    assert not out.exists()


def test_a_registered_name_is_not_a_folder_that_is_called_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped policy would be fitted, and the verifier put into somebody's folder."""
    (tmp_path / "mini_vla").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--data", str(data), "--policy", "mini_vla"]) == 2
    assert "or --policy ./mini_vla for the folder here" in capsys.readouterr().err
    assert not list((tmp_path / "mini_vla").iterdir())


def test_features_of_other_contents_under_the_same_name_and_size_are_not_reused(data: Path) -> None:
    first = fit(config(data), silent)
    size, times = data.stat().st_size, data.stat()
    with h5py.File(data, "a") as file:
        for demo in file["data"].values():
            demo["actions"][:] *= -1
            demo["anchors"][:] *= -1
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert data.stat().st_size == size
    second = fit(config(data, overwrite=True), silent)
    assert len(list(data.parent.glob("*.features-*"))) == 2
    assert first.quantiles != second.quantiles


def test_contents_are_those_of_all_files_and_their_names(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for name in ("a", "b"):
        (tmp_path / f"{name}_demo.hdf5").write_bytes(name.encode() * 5_000_000)
    before = files.content(tmp_path, lambda *done: told.append(done))
    assert told[-1] == (10, 10)
    (tmp_path / "note.txt").write_text("not read")
    assert files.content(tmp_path, silent) == before
    (tmp_path / "b_demo.hdf5").rename(tmp_path / "c_demo.hdf5")
    assert files.content(tmp_path, silent) != before


def spoil(path: Path, name: str, value: np.ndarray | None) -> None:
    with safe_open(path, framework="numpy") as file:
        arrays, metadata = {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118
    arrays.pop(name)
    save_file(arrays if value is None else {**arrays, name: value}, path, metadata)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("distance", np.full(60, np.nan, np.float32), "are NaN or infinite"),
        ("features.hidden", np.full((60, HORIZON, 4), np.inf, np.float16), "are NaN or infinite"),
        ("features.hidden", np.zeros((59, HORIZON, 4), np.float16), "damaged"),
        ("features.hidden", None, "damaged"),
        ("demonstration", None, "damaged"),
    ],
)
def test_a_features_file_is_not_believed(data: Path, name: str, value: np.ndarray | None, message: str) -> None:
    fit(config(data), silent)
    (features,) = data.parent.glob("*.features-*")
    spoil(features, name, value)
    with pytest.raises(ArtifactError, match=f"{message}.*delete the file"):
        fit(config(data, overwrite=True), silent)


def test_a_features_file_that_cannot_be_written_is_said_before_the_search(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PointPolicy, "sample", lambda *_: pytest.fail("searched"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot keep features in .*--features"):
        fit(config(data, features=tmp_path / "file" / "f"), silent)


class Scaled(PointPolicy):
    """Acts, or represents, in numbers that are out of range."""

    def __init__(self, scale: float = 0.1, features: float = 1.0) -> None:
        super().__init__()
        self._features = features
        self._spec = dataclasses.replace(self._spec, action_scale=np.full((HORIZON, 3), scale, np.float32))

    def _one(self, observation: Observation, seed: int, n: int) -> Candidates:
        made = super()._one(observation, seed, n)
        return dataclasses.replace(made, features={"hidden": made.features["hidden"] * np.float32(self._features)})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Scaled(scale=np.nan), r"is nan away from demonstration 0 of .*demos.h5 at step 0"),
        (Scaled(scale=1e-30), r"is inf away from demonstration"),
        (Scaled(features=1e6), r"features 'hidden' that are NaN, infinite or above 65504 in demonstration 0 .*step 0"),
    ],
)
def test_distances_and_features_that_are_not_finite_are_named(data: Path, policy: Scaled, message: str) -> None:
    with DemonstrationFile(data) as file, pytest.raises(InvalidActionError, match=message):
        searched_by(policy, file, FitConfig(data, candidates=2, batch=4))


def test_demonstrations_that_are_not_finite_are_named(data: Path) -> None:
    with h5py.File(data, "a") as file:
        file["data/demo_7/actions"][3, 1] = np.nan
    with pytest.raises(ArtifactError, match=r"demos.h5: demo_7: actions is NaN, infinite or too large at step 3"):
        fit(config(data), silent)
