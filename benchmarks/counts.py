"""How well do the fitted verifiers recover known counts? `python benchmarks/counts.py [--json]`.

Sixty Gaussian clusters in 64 dimensions hold 1 to 501 samples each. A cluster's estimated count is the mean score of
sixteen test samples of it; Spearman's rho compares the estimates with the true counts. Times are processor time, so
that a busy machine does not change them: one fit, and the scoring of 8 candidates. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

import numpy as np
from checked import SHORT, add_short, refuse, require, require_finite, run
from jaxtyping import Float32, Int64
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from robotest.types import Candidates, Observation
from robotest.verifiers.fit import Settings, fit_features, implementation
from robotest.verifiers.fitted import FittedVerifier
from robotest.verifiers.hyperparameters import CfnSettings, KnnSettings, LeverageSettings
from robotest.verifiers.searched import SearchedFeatures

N_CLUSTERS, MOST, WIDTH, N_QUERIES, N_CANDIDATES = 60, 501, 64, 16, 8
OBSERVATION = Observation({}, np.zeros(0, np.float32), "", 0.0)


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Training samples, and test samples by cluster."""

    training: Float32[np.ndarray, "N 1 F"]
    queries: Float32[np.ndarray, "clusters queries F"]
    counts: Int64[np.ndarray, " clusters"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    verifier: str
    noise: float
    rho: float
    fit_s: float
    score_ms: float
    megabytes: float


def clusters(noise: float, seed: int, most: int) -> Clusters:
    """Draw clusters with unit-variance centres and `noise` as standard deviation within a cluster."""
    rng = np.random.default_rng(seed)
    counts = np.linspace(1, most, N_CLUSTERS).round().astype(np.int64)
    centres = rng.standard_normal((N_CLUSTERS, WIDTH))
    rows = np.repeat(centres, counts, axis=0)
    training = rows + noise * rng.standard_normal(rows.shape)
    queries = centres[:, None] + noise * rng.standard_normal((N_CLUSTERS, N_QUERIES, WIDTH))
    return Clusters(training[:, None].astype(np.float32), queries.astype(np.float32), counts)


def measure(settings: Settings, noise: float, seed: int, most: int) -> Row:
    """Fit one verifier and compare its scores with the counts."""
    data = clusters(noise, seed, most)
    n = len(data.training)
    searched = SearchedFeatures(
        {"hidden": data.training.astype(np.float16)},
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.float32),
        "synthetic",
    )
    started = time.process_time()
    artifact = fit_features(searched, settings, 0.1, seed, lambda *_: None)
    fit_s = time.process_time() - started
    kind, make_score = implementation(settings)
    verifier = FittedVerifier(artifact, make_score(artifact.tensors, artifact.hyperparameters))
    scores = verifier.score_features(data.queries.reshape(-1, 1, WIDTH)).reshape(N_CLUSTERS, N_QUERIES).mean(axis=1)
    require_finite(f"scores of {kind}", scores)
    if not np.ptp(scores):
        refuse(f"{kind} gives every cluster the same score")
    arrays = (*artifact.tensors.values(), artifact.features.matrix, artifact.features.mean)
    return Row(
        kind,
        noise,
        float(spearmanr(scores, data.counts).statistic),
        fit_s,
        score_ms(verifier, data.queries[:N_CANDIDATES, :1]),
        sum(array.nbytes for array in arrays) / 1e6,
    )


def score_ms(verifier: FittedVerifier, features: Float32[np.ndarray, "M 1 F"]) -> float:
    """Return the median processor time of one `score` call [ms]."""
    require("candidates to score", len(features), N_CANDIDATES)
    candidates = Candidates(np.zeros((len(features), 1, 1), np.float32), {"hidden": features})
    times = []
    for _ in range(200):
        started = time.process_time()
        scores = verifier.score(OBSERVATION, candidates, 0)
        times.append(time.process_time() - started)
    require("scores of a decision", scores.size, N_CANDIDATES)
    require_finite("scores of a decision", scores)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="spread within a cluster")
    parser.add_argument("--seed", type=int, default=0)
    add_short(parser)
    arguments = parser.parse_args()
    short_cfn = CfnSettings(members=1, epochs=1, min_steps=20, patience=1)
    rows = [
        measure(settings, noise, arguments.seed, 31 if arguments.short else MOST)
        for noise in arguments.noise[: 1 if arguments.short else None]
        for settings in (LeverageSettings(), KnnSettings(), short_cfn if arguments.short else CfnSettings())
    ]
    if arguments.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
        return
    table = Table("verifier", "noise", "Spearman's rho", "fit [s]", "score 8 [ms]", "size [MB]")
    table.title = SHORT if arguments.short else None
    for row in rows:
        figures = (
            f"{row.noise:g}",
            f"{row.rho:.3f}",
            f"{row.fit_s:.1f}",
            f"{row.score_ms:.2f}",
            f"{row.megabytes:.1f}",
        )
        table.add_row(row.verifier, *figures)
    Console().print(table)


if __name__ == "__main__":
    run(main)
