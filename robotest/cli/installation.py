"""``install``: what a benchmark needs and an extra cannot bring."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional


@dataclasses.dataclass(frozen=True)
class Install:
    """Install a benchmark into this environment: packages that fit it, and its assets."""

    what: Positional[Literal["libero"]]
    """libero: LIBERO, robosuite, the MuJoCo that their published rates are from, and LIBERO's assets."""
    assets: Path | None = None
    """Folder or archive of LIBERO's assets; None: those that are there, else download them from where LIBERO does."""
    no_assets: Annotated[bool, FlagCreatePairsOff] = False
    """Packages only."""
    constraint: Path | None = None
    """File of versions for pip, e.g. the constraints.txt of the sources."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print each step when it is done."""
        from robotest.cli import install

        steps = []
        for step in install.libero(self.assets, self.constraint, with_assets=not self.no_assets):
            steps.append(step)
            if not self.json:
                sys.stdout.write(f"{step.what:<10} {step.seconds:6.1f} s   {step.detail}\n")
                sys.stdout.flush()
        if self.json:
            sys.stdout.write(json_format.dumps([dataclasses.asdict(s) for s in steps], indent=2) + "\n")
        else:
            sys.stdout.write("`robotest doctor` looks at all of it\n")
        return 0
