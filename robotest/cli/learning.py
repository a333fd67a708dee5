"""``collect``, ``train``, ``fit``: from scripted experts to a policy with verifiers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes

from robotest import registry
from robotest.config import CollectConfig, TrainConfig
from robotest.errors import RobotestError

if TYPE_CHECKING:
    from robotest.verifiers.fit import FitConfig


@dataclasses.dataclass(frozen=True)
class Collect:
    """Let scripted experts act and keep their successes as demonstrations."""

    config: OmitArgPrefixes[CollectConfig]
    """What to collect."""

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
    """What to train, and how."""

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

    data: Path
    """Demonstrations the policy was trained on."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder that `robotest train` wrote, or module:attribute."""
    verifier: Literal["cfn", "leverage", "knn"] = "leverage"
    """What to fit."""
    out: Path | None = None
    """File to write; None: VERIFIER.safetensors in the policy's folder, where `robotest eval` looks."""
    overwrite: bool = False
    """Replace a verifier that is already there."""
    features: Path | None = None
    """File that keeps the searched features for the next fit; None: beside the demonstrations."""
    feature: str | None = None
    """Which of the policy's features; None: the first that it names."""
    pooling: Literal["first", "mean", "concat"] | None = None
    """How a chunk's token features become one vector; None: the verifier's own choice."""
    scaling: Literal["each", "common"] | None = None
    """Bring each number to unit spread, or divide all by one; None: the verifier's own choice."""
    candidates: int = 16
    """Chunks sampled for each frame in the feature search."""
    stride: int = 2
    """Every how many steps a frame is used."""
    max_samples: int = 20_000
    """Frames used at most, evenly spread over the demonstrations."""
    seed: int = 0
    """Seed of the search and of the fit."""

    def run(self) -> int:
        """Search features, or read what an equal search left beside the demonstrations; fit; print the file."""
        from robotest.report import progress
        from robotest.verifiers.fit import FitConfig, SearchConfig, fit

        out = self.out or self._own_place()
        search = SearchConfig(self.candidates, self.stride, self.max_samples, self.seed)
        config = FitConfig(
            self.data,
            out,
            self.policy,
            self.verifier,
            overwrite=self.overwrite,
            features=self.features,
            seed=self.seed,
            search=search,
        )
        with progress.steps() as update:
            artifact = fit(self._with_settings(config), update)
        sys.stdout.write(f"{self.verifier} fitted to {artifact.n_samples} frames in {out}\n")
        return 0

    def _own_place(self) -> Path:
        """Return the verifier's file in the policy's folder."""
        folder = Path(self.policy)
        if self.policy in registry.table("policy"):  # which comes before a folder of that name
            aside = f", or --policy ./{self.policy} for the folder here" if folder.is_dir() else ""
            raise RobotestError(
                f"policy {self.policy!r} is a registered name and not a folder; give --policy FOLDER for a policy of"
                f" your own, --out FILE for a verifier of {self.policy!r}{aside}"
            )
        if not folder.is_dir():
            raise RobotestError(f"policy {self.policy!r} is not a folder; say with --out where to write the verifier")
        return folder / f"{self.verifier}.safetensors"

    def _with_settings(self, config: FitConfig) -> FitConfig:
        given = {name: getattr(self, name) for name in ("feature", "pooling", "scaling")}
        chosen = {name: value for name, value in given.items() if value is not None}
        settings: Any = dataclasses.replace(getattr(config, self.verifier), **chosen)
        return dataclasses.replace(config, **{self.verifier: settings})
