from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from robotest.errors import DivergedError
from robotest.verifiers import cfn
from robotest.verifiers.hyperparameters import CfnSettings
from tests.doubles import clusters

TINY = CfnSettings(hidden=16, expansion=2, n_blocks=2, members=2, min_steps=12, epochs=1, batch_size=64)
WIDTH = 5


def samples(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32)


def test_a_coin_is_a_function_of_seed_member_and_sample_alone() -> None:
    many, few = cfn.coins(3, 1, 500, 20), cfn.coins(3, 1, 7, 20)
    np.testing.assert_array_equal(many[:7], few)
    assert not np.array_equal(few, cfn.coins(3, 2, 7, 20))
    assert not np.array_equal(few, cfn.coins(4, 1, 7, 20))


@pytest.mark.parametrize("n_coins", [1, 20, 64, 70])
def test_coins_are_fair_and_independent(n_coins: int) -> None:
    coins = cfn.coins(0, 0, 4000, n_coins)
    assert coins.shape == (4000, n_coins)
    assert set(np.unique(coins)) == {-1.0, 1.0}
    correlation = coins.T @ coins / 4000 - np.eye(n_coins)
    assert np.abs(coins.mean(0)).max() < 0.08
    assert np.abs(correlation).max() < 0.1


def test_the_prior_never_changes() -> None:
    # A file stores the seed of its prior and not the prior: other numbers here would break every shipped verifier.
    expected = [0.46881748695593284, 0.42614583623918467, 0.3629817008336008]
    np.testing.assert_allclose(cfn.uniform(7, 3), expected, atol=1e-15)


def test_stacked_networks_equal_torch_modules() -> None:
    weights = cfn.initial_weights(WIDTH, TINY, 0, "trained")
    x = torch.from_numpy(samples(9))
    stacked = cfn.forward(weights, x.expand(2, -1, -1))
    for member in range(2):

        def linear(name: str, value: torch.Tensor, m: int = member) -> torch.Tensor:
            return torch.nn.functional.linear(value, weights[f"{name}.weight"][m].T, weights[f"{name}.bias"][m, 0])

        norm = torch.nn.LayerNorm(TINY.hidden)
        hidden = norm(torch.nn.functional.gelu(linear("in", x)))
        for block in "01":
            inner = torch.nn.functional.gelu(linear(f"{block}.up", hidden))
            hidden = norm(hidden + linear(f"{block}.down", inner))
        torch.testing.assert_close(stacked[member], linear("out", hidden).detach(), rtol=1e-4, atol=1e-5)


def test_the_prior_has_mean_zero_and_variance_one_over_the_data_and_its_statistics_are_kept() -> None:
    x = torch.from_numpy(samples(5000))  # more rows than are evaluated at once
    prior, statistics = cfn._standardised_prior(WIDTH, x, TINY, 0)
    output = cfn._evaluate(prior, x)
    torch.testing.assert_close(output.mean(1), torch.zeros(2, 20), rtol=0, atol=1e-3)
    torch.testing.assert_close(output.var(1, correction=0), torch.ones(2, 20), rtol=1e-3, atol=1e-3)
    assert statistics["prior_mean"].shape == (2, 1, 20)


def test_dropout_is_off_in_the_prior_and_in_scoring() -> None:
    tensors = cfn.fit(samples(100), samples(20, 1), TINY, 0)
    score = cfn.make_score(tensors, dataclasses.asdict(TINY))
    np.testing.assert_array_equal(score(samples(8)), score(samples(8)))


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 300, 5632])
@pytest.mark.parametrize("held_out", [0, 1, 40])
def test_no_number_of_samples_breaks_training(n: int, held_out: int) -> None:
    tensors = cfn.fit(samples(n), samples(held_out, 1), TINY, 0)
    assert np.isfinite(cfn.make_score(tensors, dataclasses.asdict(TINY))(samples(8))).all()


@pytest.mark.parametrize("n", [1, 300, 5632])
def test_every_sample_is_in_every_pass(n: int) -> None:
    batches = cfn._batches(n, 512, torch.Generator().manual_seed(0))
    n_batches = -(-n // 512)
    for _ in range(2):
        rows = torch.cat([next(batches) for _ in range(n_batches)])
        assert sorted(rows.tolist()) == list(range(n))


def test_learning_rate_is_one_cycle() -> None:
    rates = [cfn.learning_rate(step / 1000, 1e-3) for step in range(1001)]
    assert np.argmax(rates) == 300
    assert max(rates) == pytest.approx(1e-3)
    assert rates[0] == pytest.approx(4e-5)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert (np.diff(rates[:300]) > 0).all()
    assert (np.diff(rates[300:]) < 0).all()


@pytest.mark.parametrize(("stopping", "best"), [("steepest", 2), ("smallest", 4)])
def test_early_stopping_keeps_the_best_and_not_the_last(stopping: Literal["steepest", "smallest"], best: int) -> None:
    settings = dataclasses.replace(TINY, stopping=stopping, patience=2)
    weights = {"a": torch.zeros(1)}
    rule = cfn._EarlyStopping(weights, settings)
    stops = []
    for number, error in enumerate([1.0, 0.9, 0.3, 0.25, 0.2, 0.22, 0.23, 0.24]):
        weights["a"].fill_(number)
        stops.append(rule.update(error))
        if stops[-1]:
            break
    assert stops[-1]
    assert len(stops) == best + 4
    assert rule.best_weights["a"].item() == best


def test_the_seed_decides() -> None:
    first, same, other = (cfn.fit(samples(100), samples(20, 1), TINY, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["out.weight"], other["out.weight"])


def test_progress_is_told() -> None:
    reported: list[tuple[int, int]] = []
    cfn.fit(samples(64), samples(0), TINY, 0, lambda done, total: reported.append((done, total)))
    assert reported[0] == (1, 12)
    assert reported[-1] == (12, 12)


def test_half_precision_changes_no_ranking_that_matters() -> None:
    settings = dataclasses.replace(TINY, min_steps=60)
    tensors = cfn.fit(samples(500), samples(50, 1), settings, 0)
    rng = np.random.default_rng(0)
    # As large an error again as rounding to half precision made.
    again = {
        name: value.astype(np.float32) * (1 + rng.uniform(-(2**-11), 2**-11, value.shape)).astype(np.float32)
        if value.dtype == np.float16
        else value
        for name, value in tensors.items()
    }
    half, other = (cfn.make_score(t, dataclasses.asdict(settings))(samples(200, 2)) for t in (tensors, again))
    assert spearmanr(half, other).statistic > 0.999


@pytest.mark.slow
def test_counts_are_recovered() -> None:
    x, settings = clusters.training(width=16), CfnSettings(hidden=64, n_blocks=2)
    held_out = np.arange(len(x)) % 10 == 0
    tensors = cfn.fit(x[~held_out], x[held_out], settings, 0)
    found = cfn.make_score(tensors, dataclasses.asdict(settings))(clusters.fresh(width=16)).reshape(60, 16)
    assert spearmanr(found.mean(axis=1), clusters.COUNTS).statistic >= 0.9


def test_the_unseen_is_rarer_than_the_seen() -> None:
    x = np.repeat(samples(8), 60, axis=0) + 0.05 * samples(480, 1)
    settings = dataclasses.replace(TINY, min_steps=150, hidden=32, members=3)
    score = cfn.make_score(cfn.fit(x[::2], x[1::2], settings, 0), dataclasses.asdict(settings))
    assert score(samples(8) + 0.05 * samples(8, 2)).mean() > score(3 * samples(8, 3)).mean() + 0.5


def test_a_fit_that_diverges_says_so_and_does_not_return_its_first_weights() -> None:
    x = samples(200)
    with pytest.raises(DivergedError, match="its loss is NaN or infinite"):
        cfn.fit(x, x[:20], dataclasses.replace(TINY, learning_rate=1e38, min_steps=60), 0)
    x[150:] = 3e38  # held out: the error is beyond float32 before any loss is
    with pytest.raises(DivergedError, match="held-out demonstrations"):
        cfn.fit(x[:150], x[150:], TINY, 0)
