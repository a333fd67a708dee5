"""The file of a search: what interrupts it costs a batch at most, and how features are kept changes no verifier."""

from __future__ import annotations

import dataclasses
import os
import signal
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from robotest.config import FitConfig
from robotest.demonstrations import files
from robotest.demonstrations.files import DemonstrationFile, Demonstrations
from robotest.errors import ArtifactError, InterruptedRunError
from robotest.types import Candidates, Observation, Policy
from robotest.verifiers import fit as fitting
from robotest.verifiers.fit import Progress, fit, search
from robotest.verifiers.hyperparameters import KnnSettings
from robotest.verifiers.pooling import POOLINGS, Pooling
from robotest.verifiers.searched import SearchFile, Target, read
from tests.doubles.fakes import HORIZON, PointPolicy
from tests.verifiers.test_fit import config, out_of, silent, write
from tests.verifiers.test_fit import data as data

SPEC = PointPolicy().spec
FRAMES = 12 * 5  # demonstrations of 9 steps, every second


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"hidden": np.stack([np.full((HORIZON, 4), value, np.float16) for value in values])}


def search_file(path: Path, key: str = "key", n: int = 5) -> SearchFile:
    return SearchFile(Target(path, key), SPEC, np.arange(n, dtype=np.int32))


@dataclasses.dataclass
class Sampling:
    """Counts the frames that were sampled, and does something after the first 20."""

    then: Callable[[], None]
    frames: int = 0


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Sampling:
    state = Sampling(lambda: None)
    sample = PointPolicy.sample

    def counted(
        self: PointPolicy, observations: Sequence[Observation], seeds: Sequence[int], n: int
    ) -> list[Candidates]:
        state.frames += len(observations)
        made = sample(self, observations, seeds, n)
        if state.frames == 20:
            state.then()
        return made

    monkeypatch.setattr(PointPolicy, "sample", counted)
    return state


def fails() -> None:
    raise RuntimeError("the policy's server is gone")


@pytest.mark.parametrize(
    ("then", "error", "message", "kept"),
    [
        (lambda: signal.raise_signal(signal.SIGINT), InterruptedRunError, r"after 20 of 60 frames; .*goes on", 20),
        (fails, RuntimeError, "gone", 15),
    ],
)
def test_an_interrupted_search_goes_on_where_it_was(
    data: Path, sampling: Sampling, then: Callable[[], None], error: type[Exception], message: str, kept: int
) -> None:
    whole = config(data, "knn", out=data.with_name("whole.safetensors"), features=data.with_name("whole.features"))
    fit(whole, silent, KnnSettings())
    sampling.frames, sampling.then = 0, then
    with pytest.raises(error, match=message):
        fit(config(data, "knn"), silent, KnnSettings())
    assert [path.suffix for path in data.parent.glob("*.features-*")] == [".partial"]
    told: list[tuple[str, int, int]] = []
    sampling.frames, sampling.then = 0, lambda: None
    fit(config(data, "knn"), lambda *p: told.append(p), KnnSettings())
    assert sampling.frames == FRAMES - kept
    assert next(p for p in told if p[0] == "feature search") == ("feature search", kept, FRAMES)
    assert [path.suffix for path in data.parent.glob("*.features-*")] == [".safetensors"]
    assert out_of(config(data, "knn")).read_bytes() == out_of(whole).read_bytes()


def test_a_search_of_other_settings_does_not_go_on(data: Path, sampling: Sampling) -> None:
    features = data.with_name("features")
    sampling.then = fails
    with pytest.raises(RuntimeError, match="gone"):
        fit(config(data, features=features), silent, KnnSettings())
    with pytest.raises(ArtifactError, match=r"unfinished features in .*features.partial are from another policy"):
        fit(config(data, features=features, candidates=5), silent, KnnSettings())


def test_rows_count_once_they_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features"
    with search_file(path) as file:
        file.append(rows(0, 1), np.array([0.5, 0.25], np.float32))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(ArtifactError, match=r"No space left on device, after 2 frames"):
                file.append(rows(7), np.array([7.0], np.float32))
    with search_file(path) as file:
        assert file.done == 2
        file.append(rows(2, 3, 4), np.array([0, 1, 2], np.float32))
        file.finish()
    searched = read(Target(path, "key"), SPEC)
    np.testing.assert_array_equal(searched.features["hidden"][:][:, 0, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(searched.features["hidden"][1:3][:, 1, 2], [1, 2])
    assert searched.distance.tolist() == [0.5, 0.25, 0, 1, 2]
    assert searched.demonstration.tolist() == [0, 1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["features"]


def test_a_beginning_without_a_header_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "features.partial").write_bytes(bytes(500))
    with search_file(tmp_path / "features") as file:
        assert file.done == 0
        file.append(rows(0, 1, 2, 3, 4), np.zeros(5, np.float32))
        file.finish()
    assert len(read(Target(tmp_path / "features", "key"), SPEC).distance) == 5


def test_two_that_search_for_one_file(tmp_path: Path) -> None:
    with search_file(tmp_path / "features"), pytest.raises(ArtifactError, match="another process is searching"):
        search_file(tmp_path / "features")
    with search_file(tmp_path / "features") as file:
        assert file.done == 0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_while_searching_changes_no_bit_of_the_verifier(data: Path, pooling: Pooling) -> None:
    def fitted(keep: str) -> FitConfig:
        out, features = (data.with_name(f"{what}-{keep}") for what in ("verifier", "features"))
        made = config(data, "knn", pooling=pooling, keep=keep, out=out, features=features)
        fit(made, silent)
        return made

    tokens, pooled = fitted("tokens"), fitted("pooled")
    assert out_of(tokens).read_bytes() == out_of(pooled).read_bytes()
    assert tokens.features is not None
    assert pooled.features is not None
    if pooling != "concat":
        saved = tokens.features.stat().st_size - pooled.features.stat().st_size
        assert saved > FRAMES * 4 * (2 * HORIZON - 4) * 0.9


def test_features_pooled_for_one_fit_serve_no_other_pooling(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(config(data, "knn", pooling="mean", keep="pooled"), silent)
    searches: list[Target] = []

    def counted(policy: Policy, file: Demonstrations, chosen: FitConfig, target: Target, progress: Progress) -> None:
        searches.append(target)
        search(policy, file, chosen, target, progress)

    monkeypatch.setattr(fitting, "search", counted)
    fit(config(data, "leverage", pooling="mean", keep="pooled"), silent, KnnSettings(pooling="mean"))
    assert not searches
    fit(config(data, "knn", pooling="first", keep="pooled", overwrite=True), silent)
    assert [target.pooled for target in searches] == [("hidden", "first")]


def test_a_search_holds_few_demonstrations_at_a_time(tmp_path: Path) -> None:
    data = write(tmp_path / "large.h5", n=10, camera=128)
    policy = PointPolicy()
    with DemonstrationFile(data) as file:
        size = file[0].images["top"].nbytes
    tracemalloc.start()
    try:
        with files.read(data) as file:
            search(policy, file, FitConfig(data, candidates=2), Target(tmp_path / "features", "key"), silent)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * size
