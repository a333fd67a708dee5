"""What each command is asked for: one dataclass for the command line and for Python.

The string under a field is its help on the command line. Neither torch nor a simulator is imported here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from robotest.errors import SpecMismatchError
from robotest.names import joined, split

Names = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B",
        instance_from_str=lambda words: split(words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [joined(names)],
    ),
]
"""Names, on the command line separated by commas."""
NamesOrAll = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="all|A,B",
        instance_from_str=lambda words: () if words[0] == "all" else split(words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [joined(names) if names else "all"],
    ),
]
"""Names as `Names`; none of them stands for all."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What to evaluate."""

    out: Path | None = None
    """Run directory; the same command on it continues the run. None: runs/ENV-POLICY-seedSEED."""
    env: str = "dual_arm"
    """Environment suite: a registered name or module:attribute."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder of `robotest train`, module:attribute, or expert[:STYLE] of the suite."""
    verifiers: Names | None = None
    """Conditions to compare, separated by commas: NAME, NAME=FILE (its stem is the name), inverted:NAME or
    module:attribute. None: random, medoid, and of cfn and leverage those that were fitted to the policy."""
    tasks: NamesOrAll = ()
    r"""Tasks, separated by commas; one that has a comma itself: \,."""
    episodes: int = 20
    """Episodes per task and condition."""
    candidates: int = 8
    """Chunks sampled per decision."""
    execute: Literal["all"] | int = "all"
    """Actions of a chunk executed before the next decision."""
    seed: int = 0
    """Run seed: start states and noises follow from it alone."""
    setting: str | None = None
    """One of the suite's settings; None: its first."""
    action_mode: str | None = None
    """One of the suite's action modes; None: the policy's."""
    wording: Literal["seen", "unseen"] = "seen"
    """Instruction templates."""
    image_size: int | None = None
    """Height of the policy's images [px], the suite settles their width; None: what the policy needs."""
    success: str | None = None
    """When an episode has succeeded: info:KEY, return>=X, terminated (by the environment itself), module:function, or
    none for returns alone. None: as the environment says itself."""
    env_args: Annotated[UseAppendAction[tuple[str, ...]], arg(name="env-arg")] = ()
    """KEY=VALUE for the environment, e.g. for gymnasium.make; once for each."""
    record: Literal["none", "states", "images"] = "states"
    """What episode files hold: states, from which pictures are made afterwards; or also frames, for videos of
    environments without states. none: no files, and so no videos."""
    unpaired: bool = False
    """Compare conditions as independent samples: for environments that do not start from their seed."""
    retry: Literal["none", "errors"] = "none"
    """errors: run again what ended in an error."""
    allow_code_changes: bool = False
    """Continue although the code behind a module:attribute was edited; episodes of the code before are kept."""
    pair: str | None = None
    """A:B, the conditions that the next three are about; None: the only two."""
    stop_when_decided: bool = False
    """Stop as soon as the pair is told apart, at an error rate of alpha however often it is looked at."""
    alpha: float = 0.05
    """Error rate of stopping."""
    allocate: Literal["equal", "adaptive"] = "equal"
    """adaptive: after a first pass give more episodes to the tasks that tell more about the pair."""
    workers: Literal["auto"] | int = "auto"
    """Environment processes; auto: one for each core; 0: none but this one. Changes nothing but speed."""
    env_python: Path | None = None
    """Interpreter of the workers, for simulators that need another Python environment; None: this one."""
    batch_window_s: float = 0.0
    """How long a batch waits for more requests before it is sampled [s]."""
    shuffle: bool = False
    """Run the conditions of a start in an order drawn from the seed, where people could get used to one."""

    @property
    def directory(self) -> Path:
        """The run directory."""
        name = re.sub(r"[^\w.-]+", "-", f"{self.env}-{Path(self.policy).name}-seed{self.seed}")
        return self.out or Path("runs") / name


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    out: Path
    """File to write (HDF5)."""
    env: str = "dual_arm"
    """Suite whose experts act."""
    tasks: NamesOrAll = ()
    r"""Tasks, separated by commas (in a name: \,); all: those that have an expert."""
    episodes: int = 400
    """Successful demonstrations of each task."""
    style: str = "mixture"
    """One of the experts' styles, or the stated mixture of good and of suboptimal but successful ones."""
    setting: str | None = None
    """One of the suite's settings; None: the experts' own, whose starts are no evaluation's."""
    image_size: int | None = None
    """Height of the pictures [px]; None: the experts' own."""
    noise: float = 1.0
    """How much noise on what is executed, not on the labels, in units of the experts' own."""
    seed: int = 0
    """Seed of the starts and styles; never shares a start with an evaluation."""
    workers: int = 2
    """Processes."""
    overwrite: bool = False
    """Replace a file that is already there."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What to train, and how."""

    data: Path
    """Demonstrations: a file of `robotest collect`, or in the layouts of LIBERO and robomimic."""
    out: Path
    """Folder of the policy."""
    head: Literal["flow"] = "flow"
    """How chunks are generated."""
    name: str = "mini_vla"
    """Name of the policy in tables."""
    seed: int = 0
    """Seed of weights, batches and noise."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 64
    """Observations in a step."""
    draws: int = 4
    """Noises and times for each encoded observation."""
    horizon: int = 16
    """Actions in a chunk."""
    learning_rate: float = 1.2e-3
    """Peak, after the warm-up and before the cosine."""
    warmup: int = 200
    """Steps in which the learning rate rises."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the ones kept."""
    held_out: float = 0.05
    """Share of the demonstrations that is only watched."""
    shift_px: int = 0
    """Largest random shift of an image [px]."""
    colour: float = 0.15
    """Spread of random brightness and colour gains."""
    camera_dropout: float = 0.0
    """How often an image is blanked."""
    word_dropout: float = 0.05
    """How often a word is left out."""
    state_noise: float = 0.005
    """Noise on the normalised state."""
    pointing: float = 0.3
    """Weight of the loss that has maps of the first camera point at what the words name."""
    start_share: float = 0.15
    """Share of a batch from the first steps of demonstrations, where words and places decide most."""
    log_every: int = 100
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    threads: int | None = None
    """Threads of the processor; None leaves it to torch."""
    overwrite: bool = False
    """Replace a policy, or what an unfinished training left, of other settings or demonstrations."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "draws", "horizon", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SpecMismatchError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SpecMismatchError(f"learning_rate is {self.learning_rate}; it must be positive and finite")
