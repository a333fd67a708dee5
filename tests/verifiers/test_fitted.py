from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from robotest.cli.learning import Fit
from robotest.cli.main import parse
from robotest.errors import ArtifactError, InvalidActionError, SpecMismatchError
from robotest.types import CalibratedVerifier, Candidates, Observation
from robotest.verifiers import knn, leverage
from robotest.verifiers.fitted import Artifact, FittedVerifier, load_verifier
from robotest.verifiers.hyperparameters import KnnSettings
from robotest.verifiers.pooling import POOLINGS, FeatureMap, Pooling
from tests.doubles.fakes import PointPolicy

OBSERVATION = Observation({}, np.zeros(4, np.float32), "", 0.0)
POLICY = PointPolicy().spec


def features(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 6, 4)).astype(np.float32)


@pytest.fixture
def artifact() -> Artifact:
    settings = KnnSettings(n_components=8)
    transform = FeatureMap.fit(features(), "concat", 8)
    tensors = knn.fit(transform(features()), settings, 0)
    quantiles = ((0.01, -9.0), (0.5, -5.0), (0.99, -1.0))
    return Artifact(
        "knn", POLICY.fingerprint, "hidden", transform, dataclasses.asdict(settings), 40, quantiles, tensors
    )


@pytest.fixture
def path(artifact: Artifact, tmp_path: Path) -> Path:
    artifact.save(tmp_path / "folder" / "knn.safetensors")
    return tmp_path / "folder" / "knn.safetensors"


def test_what_was_saved_is_loaded(artifact: Artifact, path: Path) -> None:
    loaded = Artifact.load(path, "knn")
    for name in ("kind", "policy_fingerprint", "hyperparameters", "n_samples", "quantiles"):
        assert getattr(loaded, name) == getattr(artifact, name), name
    assert loaded.features.pooling == "concat"
    np.testing.assert_array_equal(loaded.features(features()), artifact.features(features()))
    np.testing.assert_array_equal(loaded.tensors["rows"], artifact.tensors["rows"])
    assert sorted(p.name for p in path.parent.iterdir()) == ["knn.safetensors"]


def test_scores_are_float64_one_a_candidate(path: Path) -> None:
    verifier = knn.load(POLICY, path)
    scores = verifier.score(OBSERVATION, Candidates(np.zeros((5, 6, 3), np.float32), {"hidden": features(5)}), 0)
    assert scores.shape == (5,)
    assert scores.dtype == np.float64
    assert verifier.spec.policy_fingerprint == POLICY.fingerprint


def test_no_path_says_how_to_fit() -> None:
    with pytest.raises(ArtifactError, match="robotest fit --verifier knn"):
        knn.load(POLICY, None)


def test_a_missing_file_says_how_to_fit(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no knn verifier at .*robotest fit --verifier knn --out"):
        knn.load(POLICY, tmp_path / "knn.safetensors")


def test_another_kind_is_refused(path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds a 'knn' verifier.*not 'leverage'"):
        leverage.load(POLICY, path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"weights": np.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="not a robotest verifier"):
        knn.load(POLICY, tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -8])
def test_a_truncated_file_is_refused_in_one_line(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="robotest fit") as caught:
        knn.load(POLICY, path)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        knn.load(POLICY, path)


def test_missing_parts_are_noticed(artifact: Artifact, tmp_path: Path) -> None:
    dataclasses.replace(artifact, tensors={}).save(tmp_path / "knn.safetensors")
    with pytest.raises(ArtifactError, match="lacks parts"):
        knn.load(POLICY, tmp_path / "knn.safetensors")


def test_a_verifier_of_another_policy_is_refused(path: Path) -> None:
    with pytest.raises(SpecMismatchError, match="fitted to policy fake-weights"):
        knn.load(PointPolicy("other-weights").spec, path)


def test_an_unwritable_place_is_one_line(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write verifier"):
        artifact.save(tmp_path / "file" / "knn.safetensors")


def test_candidates_without_features_are_refused(path: Path) -> None:
    with pytest.raises(SpecMismatchError, match="have none"):
        knn.load(POLICY, path).score(OBSERVATION, Candidates(np.zeros((5, 6, 3), np.float32)), 0)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_are_refused_whichever_token_is_not_finite(pooling: Pooling, value: float) -> None:
    fitted = FeatureMap.fit(features(), pooling, 4)
    broken = features(5)
    broken[2, 3, 1], broken[2, 4, 1] = value, np.inf
    with pytest.raises(InvalidActionError, match="contain NaN or infinity"):
        fitted(broken)


def test_nan_features_are_an_error_and_not_a_score(path: Path) -> None:
    broken = features(5)
    broken[2, 0, 0] = np.nan
    with pytest.raises(InvalidActionError, match="NaN"):
        knn.load(POLICY, path).score(OBSERVATION, Candidates(np.zeros((5, 6, 3), np.float32), {"hidden": broken}), 0)


def test_a_score_that_is_not_finite_is_an_error(artifact: Artifact) -> None:
    verifier = FittedVerifier(artifact, lambda x: np.full(len(x), np.nan))
    with pytest.raises(InvalidActionError, match="scored a candidate NaN"):
        verifier.score(OBSERVATION, Candidates(np.zeros((5, 6, 3), np.float32), {"hidden": features(5)}), 0)


def test_threshold_interpolates_between_quantiles_and_refuses_to_extrapolate(artifact: Artifact) -> None:
    verifier = FittedVerifier(artifact, knn.make_score(artifact.tensors, artifact.hyperparameters))
    assert verifier.threshold(0.5) == -5.0
    assert -9.0 < verifier.threshold(0.1) < -5.0
    with pytest.raises(ArtifactError, match="outside"):
        verifier.threshold(0.001)


def test_levels_are_the_inverse_of_thresholds_within_what_was_held_out(artifact: Artifact) -> None:
    verifier = FittedVerifier(artifact, knn.make_score(artifact.tensors, artifact.hyperparameters))
    assert isinstance(verifier, CalibratedVerifier)
    wanted = np.array([0.01, 0.2, 0.5, 0.99])
    levels = verifier.support_levels(np.array([verifier.threshold(level) for level in wanted]))
    assert levels is not None
    np.testing.assert_allclose(levels, wanted)
    beyond = verifier.support_levels(np.array([-1e9, 1e9]))
    assert beyond is not None
    assert beyond.tolist() == [0.01, 0.99]
    assert (
        FittedVerifier(dataclasses.replace(artifact, quantiles=()), verifier.score_mapped).support_levels(wanted)
        is None
    )


def test_load_verifier_is_what_the_factories_use(path: Path) -> None:
    assert isinstance(load_verifier("knn", POLICY, path, knn.make_score), FittedVerifier)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_verifier_that_is_not_finite_is_not_written(artifact: Artifact, tmp_path: Path, value: float) -> None:
    rows = artifact.tensors["rows"].copy()
    rows[3, 1] = value
    features = dataclasses.replace(artifact.features, mean=np.full_like(artifact.features.mean, value))
    for broken, what in (
        (dataclasses.replace(artifact, tensors={"rows": rows}), "knn.rows"),
        (dataclasses.replace(artifact, features=features), "features.mean"),
        (dataclasses.replace(artifact, quantiles=((0.5, value),)), "score of held-out demonstrations"),
        (dataclasses.replace(artifact, hyperparameters={"n_components": value}), "not JSON compliant"),
    ):
        with pytest.raises(ArtifactError, match=what):
            broken.save(tmp_path / "knn.safetensors")
        assert not list(tmp_path.iterdir())


def test_a_verifier_that_is_not_finite_is_not_loaded(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "knn.safetensors"
    rows = artifact.tensors["rows"].copy()
    rows[3, 1] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robotest.verifiers.fitted._not_finite", lambda *_: None)
        dataclasses.replace(artifact, tensors={"rows": rows}).save(path)
    with pytest.raises(ArtifactError, match=r"cannot score: its knn.rows is NaN or infinite"):
        knn.load(POLICY, path)


def proposed(error: Exception) -> list[str]:
    """Return the command that a message puts into quotes, as a shell would split it."""
    (command,) = re.findall(r"`(robotest fit [^`]*)`", str(error))
    return shlex.split(command)[1:]


def test_proposed_commands_are_complete(artifact: Artifact, tmp_path: Path) -> None:
    """They parse as they stand, name the policy's folder and never fit the shipped policy into somebody's."""
    folder = tmp_path / "my policy"
    damaged, foreign, missing = (folder / f"{name}.safetensors" for name in ("damaged", "foreign", "knn"))
    folder.mkdir()
    save_file({"weights": np.zeros(1)}, folder / "policy.safetensors", {"data": "gone.h5"})
    damaged.write_bytes(b"damaged")
    artifact.save(foreign)
    for policy, path, overwrite in (
        (POLICY, None, False),
        (POLICY, missing, False),
        (POLICY, damaged, False),
        (PointPolicy("other-weights").spec, foreign, True),
    ):
        with pytest.raises((ArtifactError, SpecMismatchError)) as caught:
            knn.load(policy, path)
        command = parse(proposed(caught.value))
        assert isinstance(command, Fit)
        assert command.config.policy == (str(folder) if path else "POLICY")
        assert command.config.data == Path("DEMOS.h5")
        assert command.config.overwrite == overwrite
        assert command.config.out is not None
        assert overwrite or not command.config.out.exists()
