"""The MuJoCo version: whether it reproduces published benchmarks; and a check that the simulation has not diverged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from robotest.errors import RobotestError
from robotest.gl import use_headless_gl

use_headless_gl()

import mujoco  # noqa: E402 - after the choice of its renderer

VERSION: Final[str] = mujoco.__version__
SIMULATOR: Final = f"mujoco {VERSION}"
"""For `EnvSpec.simulator`."""
CHANGED: Final = (3, 4)
"""From this version on contacts between boxes differ: objects of LIBERO's stored starts come to rest elsewhere."""
ENV_ARGS: Final = {"mujoco": ("any",)}
"""Arguments of published benchmarks: ``mujoco=any`` runs them on a MuJoCo with different contacts."""
_RESETS: Final = {
    mujoco.mjtWarning.mjWARN_BADQPOS: "position",
    mujoco.mjtWarning.mjWARN_BADQVEL: "speed",
    mujoco.mjtWarning.mjWARN_BADQACC: "acceleration",
    mujoco.mjtWarning.mjWARN_BADCTRL: "control",
}


def published_caveats(benchmark: str, arguments: Mapping[str, str], version: str = VERSION) -> tuple[str, ...]:
    """Return the caveats about the physics of a published benchmark, for `EnvSpec.caveats`.

    Args:
        benchmark: e.g. ``LIBERO``.
        arguments: values of `ENV_ARGS`.
        version: MuJoCo's.

    Raises:
        RobotestError: the physics differs from the benchmark's, without ``mujoco=any``.
    """
    if not is_changed(version):
        return ()
    if arguments.get("mujoco") != "any":
        raise RobotestError(
            f"{benchmark}'s published rates are from MuJoCo before 3.4, where objects come to rest elsewhere than on"
            f" the installed {version}: run `robotest install libero`, or accept it with --env-arg mujoco=any"
        )
    return (f"MuJoCo {version}: contacts differ from {benchmark}'s, not comparable with published rates",)


def is_changed(version: str = VERSION) -> bool:
    """Return whether a version of MuJoCo is `CHANGED` or newer."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= CHANGED


def require_sound(data: mujoco.MjData) -> None:
    """Check after every step that the simulation has not diverged; MuJoCo silently resets a state that is not finite.

    Raises:
        RobotestError: MuJoCo has reset the state. The warnings are cleared, so that the next episode starts without.
    """
    # The cheap test first, at every step. MuJoCo's reset zeroes all counts, then sets that of its reason to 1.
    if not data.warning.number.any():
        return
    for warning, what in _RESETS.items():
        if data.warning[warning].number:
            where = data.warning[warning].lastinfo
            data.warning.number[:] = 0
            raise RobotestError(
                f"the simulation diverged ({what} {where} is not finite or huge) and MuJoCo reset it; the episode"
                " cannot be judged"
            )
