"""``collect``, ``train``, ``fit``: from scripted experts to a policy with verifiers."""

from __future__ import annotations

import dataclasses
import sys

from tyro.conf import OmitArgPrefixes

from robotest.config import CollectConfig, FitConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Collect:
    """Let scripted experts act and keep their successes as demonstrations."""

    config: OmitArgPrefixes[CollectConfig]
    """Demonstrations to collect."""

    def run(self) -> int:
        """Collect, and print how often each style succeeded."""
        from robotest.demonstrations import collect
        from robotest.report import progress

        with progress.collection(self.config.episodes) as update:
            tallies = collect.collect(self.config, update)
        for task, tally in tallies.items():
            styles = ", ".join(f"{s} {tally.succeeded[s]}/{n}" for s, n in tally.tried.items() if n)
            sys.stdout.write(f"{task}: {styles}\n")
        sys.stdout.write(f"demonstrations in {self.config.out}\n")
        return 0


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy on demonstrations. The same command continues after an interruption."""

    config: OmitArgPrefixes[TrainConfig]
    """Policy to train."""

    def run(self) -> int:
        """Train, and print the file of the weights; a policy of the same settings and data is left as it is."""
        from robotest.policies import training
        from robotest.report import progress

        done = 0
        with progress.steps() as update:

            def follow(step: int, total: int, loss: float) -> None:
                nonlocal done
                done = step
                update(f"loss {loss:.3f}", step, total)

            path = training.train(self.config, follow)
        sys.stdout.write(f"policy in {path}{'' if done else ', where it was already: nothing was changed'}\n")
        return 0


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fit a verifier to a policy: how often was something like a candidate seen in the demonstrations?"""

    config: OmitArgPrefixes[FitConfig]
    """Verifier to fit."""

    def run(self) -> int:
        """Search features, or read those of an equal search; fit; print the file."""
        from robotest.report import progress
        from robotest.verifiers.fit import destination, fit

        with progress.steps() as update:
            artifact = fit(self.config, update)
        sys.stdout.write(
            f"{self.config.verifier} fitted to {artifact.n_samples} frames in {destination(self.config)}\n"
        )
        return 0
