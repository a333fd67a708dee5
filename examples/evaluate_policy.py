"""Evaluate a custom policy from Python: ``python examples/evaluate_policy.py [FOLDER]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import robotest


class Balance:
    """Pushes the cart in the direction in which the pole leans, with random errors, so that candidates differ."""

    def __init__(self, env: robotest.EnvSpec) -> None:
        self.spec = robotest.PolicySpec.blind("balance", env, action_scale=np.ones((4, env.action.size), np.float32))

    def sample(
        self, observations: Sequence[robotest.Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[robotest.Candidates]:
        """Return M chunks of H actions for each observation; candidate m depends on its seed and m alone."""
        batch = []
        for observation, seed in zip(observations, noise_seeds, strict=True):
            _, _, angle, speed = observation.state
            right = float(angle + 0.3 * speed > 0)
            errs = [
                np.random.default_rng([seed, m]).random(self.spec.action_scale.shape) < 0.3 for m in range(n_candidates)
            ]
            batch.append(robotest.Candidates(np.abs(right - np.array(errs)).astype(np.float32)))
        return batch


def balance(path: Path | None, env: robotest.EnvSpec) -> Balance:
    """Make the policy; `path` is None, `env` is the environment's spec."""
    return Balance(env)


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/balance")
    config = robotest.EvalConfig(
        out, env="gymnasium:CartPole-v1", policy="__main__:balance", verifiers=("first", "medoid"), success="return>=50"
    )
    robotest.evaluate(config)
    run = robotest.load_run(out)
    for condition, rate in run.rates.items():
        print(f"{condition}: {rate.successes} of {rate.episodes} episodes, {rate.rate:.0%}")
    (difference,) = run.summary.comparisons
    print(f"{difference.a} - {difference.b}: {difference.difference:+.0%}, p = {difference.p_value:.2g}")
    # pandas.DataFrame(run.rows()) is a table of the episodes.
