"""What each command is asked for. Light: neither torch nor a simulator is imported here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. The string under a field is its help on the command line."""

    out: Path
    """Run directory. The same command on it continues the run."""
    env: str = "dual_arm"
    """Environment suite: a registered name or module:attribute."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder of `robotest train`, module:attribute, or expert[:STYLE] of the suite."""
    verifiers: tuple[str, ...] | None = None
    """Conditions to compare: NAME, NAME=FILE, inverted:NAME or module:attribute. With a FILE, its stem is the name.
    None: random, medoid, and of cfn and leverage those that were fitted to the policy."""
    tasks: tuple[str, ...] = ()
    """Tasks; all of the suite if none is given."""
    episodes: int = 20
    """Episodes per task and condition."""
    candidates: int = 8
    """Chunks sampled per decision."""
    execute: int | None = None
    """Actions of a chunk executed before the next decision; None: all."""
    seed: int = 0
    """Run seed: start states and noises follow from it alone."""
    setting: str | None = None
    """One of the suite's settings; None: its first."""
    action_mode: str | None = None
    """One of the suite's action modes; None: the policy's."""
    wording: Literal["seen", "unseen"] = "seen"
    """Instruction templates."""
    image_size: int | None = None
    """Height and width of the policy's images [px]; None: what the policy needs."""
    success: str | None = None
    """When an episode has succeeded, as `robotest.success` has it; None: as the environment says itself."""
    env_args: tuple[str, ...] = ()
    """KEY=VALUE for the environment, e.g. for `gymnasium.make`."""
    record: Literal["none", "states", "images"] = "states"
    """What episode files hold: states, from which pictures are made afterwards; or also the frames that were rendered
    during the run, for environments without states. none: no files, and so no videos."""
    unpaired: bool = False
    """Compare conditions as independent samples, where equal indices are not equal starts."""
    retry: Literal["none", "errors"] = "none"
    """errors: run again what ended in an error."""
    allow_code_changes: bool = False
    """Continue although the code behind a module:attribute was edited; episodes of the code before are kept."""
    pair: tuple[str, str] | None = None
    """The two conditions that the next three are about; None: the only two."""
    stop_when_decided: bool = False
    """Stop as soon as the pair is told apart, at an error rate of alpha however often it is looked at."""
    alpha: float = 0.05
    """Error rate of stopping."""
    allocate: Literal["equal", "adaptive"] = "equal"
    """adaptive: after a first pass give more episodes to the tasks that tell more about the pair."""
    workers: int = 0
    """Environment processes; 0: none but this one. Changes nothing but speed."""
    env_python: Path | None = None
    """Interpreter of the workers, for simulators that need another Python environment; None: this one."""
    batch_window_s: float = 0.0
    """How long a batch waits for more requests before it is sampled [s]."""
    shuffle: bool = False
    """Run the conditions of a start in an order drawn from the seed, where people could get used to one."""
