"""Which physics a MuJoCo suite runs on, whether it is the published benchmark's, and whether it is physics at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from robotest.errors import RobotestError
from robotest.gl import use_headless_gl

use_headless_gl()

import mujoco  # noqa: E402 - after the choice of what it draws with

VERSION: Final[str] = mujoco.__version__
SIMULATOR: Final = f"mujoco {VERSION}"
"""For `EnvSpec.simulator`."""
CHANGED: Final = (3, 4)
"""The version whose contacts between boxes differ: objects of LIBERO's stored starts come to rest elsewhere."""
ENV_ARGS: Final = {"mujoco": ("any",)}
"""Of suites whose numbers others published: ``mujoco=any`` runs them on physics that is not theirs."""
_RESETS: Final = {
    mujoco.mjtWarning.mjWARN_BADQPOS: "position",
    mujoco.mjtWarning.mjWARN_BADQVEL: "speed",
    mujoco.mjtWarning.mjWARN_BADQACC: "acceleration",
    mujoco.mjtWarning.mjWARN_BADCTRL: "control",
}


def published_caveats(benchmark: str, arguments: Mapping[str, str], version: str = VERSION) -> tuple[str, ...]:
    """Return what tables must say of the physics of a published benchmark.

    Args:
        benchmark: e.g. ``LIBERO``.
        arguments: those of `ENV_ARGS` that were given.
        version: MuJoCo's.

    Raises:
        RobotestError: the physics is not the benchmark's, and nobody asked for that.
    """
    if not is_changed(version):
        return ()
    if arguments.get("mujoco") != "any":
        raise RobotestError(
            f"{benchmark}'s published rates are from MuJoCo before 3.4, where objects come to rest elsewhere than on"
            f" the installed {version}: run `robotest install libero`, or ask for it with --env-arg mujoco=any"
        )
    return (f"MuJoCo {version}: contacts differ from {benchmark}'s, not comparable with published rates",)


def is_changed(version: str = VERSION) -> bool:
    """Whether a version of MuJoCo is `CHANGED` or newer."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= CHANGED


def require_sound(data: mujoco.MjData) -> None:
    """Call after every step: MuJoCo puts a scene whose state is no longer finite back to its beginning, and goes on.

    Raises:
        RobotestError: it has done so. The warnings are taken back, so that the next reset starts without them.
    """
    # At every step, so the cheap question first. MuJoCo's reset sets all counts to 0, then that of its reason to 1.
    if not data.warning.number.any():
        return
    for warning, what in _RESETS.items():
        if data.warning[warning].number:
            where = data.warning[warning].lastinfo
            data.warning.number[:] = 0
            raise RobotestError(
                f"the simulation diverged ({what} {where} is not finite or huge) and MuJoCo began it anew; this episode"
                " says nothing about the policy"
            )
