"""``collect``, ``train``, ``fit``: from scripted experts to a policy with verifiers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from robotest.commands.text import split


@dataclasses.dataclass(frozen=True)
class Collect:
    """Let scripted experts act and keep their successes as demonstrations."""

    out: Path
    """File to write (HDF5)."""
    env: str = "dual_arm"
    """Suite whose experts act."""
    tasks: str = "all"
    """Tasks, separated by commas."""
    episodes: int = 400
    """Successful demonstrations per task."""
    style: str = "mixture"
    """One of the experts' styles, or the stated mixture of good and of suboptimal but successful ones."""
    setting: str = "clean"
    """One of the suite's settings."""
    noise_m: float = 0.003
    """Standard deviation of the noise on the executed tip positions, not on the labels [m]."""
    seed: int = 0
    """Seed of starts and styles; never shares a start with an evaluation."""
    workers: int = 2
    """Processes."""

    def run(self) -> int:
        """Collect, and print how often each style succeeded."""
        from robotest import collect, progress

        asked = {name: value for name, value in dataclasses.asdict(self).items() if name != "tasks"}
        config = collect.CollectConfig(tasks=() if self.tasks == "all" else split(self.tasks), **asked)
        with progress.collection(config.episodes) as update:
            tallies = collect.collect(config, update)
        for task, tally in tallies.items():
            styles = ", ".join(f"{s} {tally.succeeded[s]}/{n}" for s, n in tally.tried.items() if n)
            sys.stdout.write(f"{task}: {styles}\n")
        sys.stdout.write(f"demonstrations in {self.out}\n")
        return 0
