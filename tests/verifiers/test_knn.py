from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from robotest.verifiers import knn
from robotest.verifiers.hyperparameters import KnnSettings


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 300), k=st.integers(1, 8), seed=st.integers(0, 99))
def test_it_is_the_mean_distance_to_the_nearest_rows(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, queries = (rng.standard_normal((m, 6)).astype(np.float32) for m in (n, 7))
    chosen = KnnSettings(neighbours=k)
    tensors = knn.fit(x, chosen, 0)
    found = knn.make_score(tensors, dataclasses.asdict(chosen))(queries)
    distances, _ = cKDTree(tensors["rows"].astype(np.float64)).query(queries, k=list(range(1, min(k, n) + 1)))
    np.testing.assert_allclose(-found, distances.mean(axis=1), rtol=1e-3, atol=1e-3)


def test_too_many_rows_are_thinned_evenly_and_always_alike() -> None:
    x = np.arange(1000, dtype=np.float32)[:, None]
    rows = knn.fit(x, KnnSettings(max_rows=10), 0)["rows"]
    assert rows.dtype == np.float16
    np.testing.assert_allclose(rows[:, 0].astype(float), np.linspace(0, 999, 10), atol=0.5)
    np.testing.assert_array_equal(rows, knn.fit(x, KnnSettings(max_rows=10), 1)["rows"])


def test_half_precision_does_not_change_who_is_nearer() -> None:
    rng = np.random.default_rng(0)
    x, queries = (rng.standard_normal((m, 64)).astype(np.float32) for m in (2000, 200))
    half = knn.make_score(knn.fit(x, KnnSettings(), 0), dataclasses.asdict(KnnSettings()))(queries)
    full = knn.make_score({"rows": x}, dataclasses.asdict(KnnSettings()))(queries)
    assert np.argmax(half) == np.argmax(full)
    np.testing.assert_allclose(half, full, rtol=1e-4)
