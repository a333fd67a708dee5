from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.errors import InvalidActionError
from robotest.verifiers.pooling import FeatureMap, pool


def tokens(n: int, seed: int = 0, shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def test_each_pooling_is_what_its_name_says() -> None:
    features = tokens(3)
    np.testing.assert_array_equal(pool(features, "first"), features[:, 0])
    np.testing.assert_allclose(pool(features, "mean"), features.sum(1) / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pool(features, "concat")[1, 6:12], features[1, 1])


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 40), k=st.integers(1, 30), seed=st.integers(0, 99))
def test_components_are_uncorrelated_and_in_order_for_any_number_of_samples(n: int, k: int, seed: int) -> None:
    features = tokens(n, seed)
    mapped = FeatureMap.fit(features, "concat", k)(features)
    assert mapped.shape == (n, min(k, 24))
    assert np.isfinite(mapped).all()
    covariance = mapped.T @ mapped / n
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=2e-3)
    assert (np.diff(np.diag(covariance)) <= 2e-3).all()


def test_subspace_iteration_finds_the_principal_directions() -> None:
    features = tokens(500, shape=(10, 30)) * np.linspace(0.1, 2, 300, dtype=np.float32).reshape(10, 30)
    latent = np.random.default_rng(1).standard_normal((500, 8, 1, 1)).astype(np.float32)
    features += (latent * tokens(8, 2, (10, 30)) * 3).sum(1)
    fitted = FeatureMap.fit(features, "concat", 8)
    x = features.reshape(500, -1)
    standardised = (x - x.mean(0)) / x.std(0)
    exact = np.linalg.svd(standardised, compute_uv=False)[:8] ** 2
    np.testing.assert_allclose(np.square(fitted(features)).sum(0), exact, rtol=2e-3)


def test_features_that_hardly_vary_are_not_blown_up() -> None:
    features = tokens(200)
    features[:, :, 0] = 1.0 + 1e-7 * features[:, :, 0]
    fitted = FeatureMap.fit(features, "mean", 6)
    moved = features[:1].copy()
    moved[:, :, 0] += 1e-4
    assert np.abs(fitted(moved) - fitted(features[:1])).max() < 0.1


def test_a_common_scale_keeps_proportions() -> None:
    features = tokens(200) * np.linspace(0.1, 3, 24, dtype=np.float32).reshape(4, 6)
    mapped = FeatureMap.fit(features, "concat", 24, "common")(features)
    x = features.reshape(200, -1)
    overall = np.sqrt(x.var(0).mean())
    np.testing.assert_allclose(
        np.linalg.norm(mapped, axis=1), np.linalg.norm(x - x.mean(0), axis=1) / overall, rtol=1e-4
    )
    each = FeatureMap.fit(features, "concat", 24, "each")(features)
    assert np.square(mapped).sum() == pytest.approx(np.square(each).sum(), rel=1e-3)
    assert np.square(mapped)[:, 0].sum() > 1.5 * np.square(each)[:, 0].sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_an_error(bad: float) -> None:
    features = tokens(8)
    fitted = FeatureMap.fit(features, "mean", 6)
    features[3, 2, 1] = bad
    with pytest.raises(InvalidActionError, match="NaN or infinity"):
        fitted(features)


def test_another_shape_is_an_error_that_says_what_was_fitted() -> None:
    fitted = FeatureMap.fit(tokens(8), "mean", 6)
    with pytest.raises(InvalidActionError, match=r"\[M, 4, 6\].*robotest fit"):
        fitted(tokens(8, shape=(5, 6)))
