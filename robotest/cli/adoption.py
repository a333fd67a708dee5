"""``adopt``: from somebody's checkpoint to a policy that can be evaluated."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from tyro.conf import Positional, UseAppendAction, arg

from robotest import registry
from robotest.cli.inspection import Check
from robotest.errors import RobotestError
from robotest.names import split

if TYPE_CHECKING:
    from robotest.policies.adoption import Told

PICTURE: Final = "what_it_sees.png"


@dataclasses.dataclass(frozen=True)
class Adopt:
    """Write interface.toml beside a checkpoint's weights, check the policy, and draw what it sees."""

    checkpoint: Positional[Path]
    """Folder of the checkpoint: config.json, weights as safetensors, tokenizer."""
    kind: Annotated[Literal["pi0"], arg(name="as")]
    """What it is."""
    env: str
    """Environment it was trained for."""
    differences: str | None = None
    """Actions that the model gives as differences to the state, separated by commas; or none."""
    camera: UseAppendAction[tuple[str, ...]] = ()
    """CAMERA=SLOT; repeat the option for each picture, in the model's order. Known for LIBERO."""
    padding: Literal["centre", "end"] | None = None
    """Where bars go beside pictures that are not square: on both sides (openpi), or right or below (transformers)."""
    statistics: Path | None = None
    """File of means and deviations; None: the one in the checkpoint's folder."""
    name: str | None = None
    """Of the policy, in tables; None: the folder's."""
    overwrite: bool = False
    """Replace an interface.toml that is already there."""

    def run(self) -> int:
        """Write, check, draw, and say what came from where; what is missing is listed, with exit code 2."""
        from robotest import experts
        from robotest.policies import adoption
        from robotest.policies.adoption import CheckpointFacts
        from robotest.types import EnvOptions, Suite

        path = adoption.free(self.checkpoint, overwrite=self.overwrite)
        checkpoint = CheckpointFacts.read(self.checkpoint, self.kind, self.statistics)
        suite: Suite = registry.resolve("env", self.env)
        options = EnvOptions(suite.settings[0], suite.action_modes[0], image_size=checkpoint.picture_px)
        with closing(experts.make(self.env, suite, suite.tasks[0], options)) as env:
            meant = adoption.adopt(checkpoint, env.spec, self._told())
            env.reset(0, 0)
            seen = adoption.picture(meant, env.observe(), checkpoint.picture_px)
        meant.write(path)
        say = sys.stdout.write
        say(f"config.json: chunks of {checkpoint.horizon} actions, pictures of {checkpoint.picture_px} px\n")
        say(f"{checkpoint.source}: statistics of {meant.action.size} actions and {meant.state.size} numbers of state\n")
        say(f"{self.env}: layouts, {meant.control_hz:g} actions per second\n")
        say(f"cameras: {', '.join(f'{c.camera} -> {c.slot}' for c in meant.cameras)}\n")
        say(f"differences to the state: {', '.join(meant.added_state) or 'none'}\n")
        say(f"wrote {path}: read it before you believe a number\n")
        adoption.write_picture(self.checkpoint / PICTURE, seen)
        say(f"wrote {self.checkpoint / PICTURE}: what the policy sees first\n")
        return Check("policy", str(self.checkpoint), env=self.env).run()

    def _told(self) -> Told:
        from robotest.policies.adoption import NO_DIFFERENCES, Told

        pairs = [text.partition("=") for text in self.camera]
        for text, (camera, _, slot) in zip(self.camera, pairs, strict=True):
            if not camera or not slot:
                raise RobotestError(f"--camera {text} given; CAMERA=SLOT is needed")
        named = None if self.differences is None else split(self.differences)
        differences = () if named == (NO_DIFFERENCES,) else named
        return Told({camera: slot for camera, _, slot in pairs}, differences, self.padding, self.name)
