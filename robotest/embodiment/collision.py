"""Forward kinematics and collision checks of both arms, their grippers and the table.

The same capsules, made from the vendor's DH values (`rm75`), are the robot of the built-in dual-arm suite and of the
controller simulator. Fingers are modelled as fully open, their widest configuration.
"""

from __future__ import annotations

import itertools
from typing import Final

import mujoco
import numpy as np
from jaxtyping import Float64

from robotest.embodiment import rm75, workcell

ARM_CLEARANCE_M: Final = 0.02
"""Minimum distance between the arms, and between parts of one arm that are not neighbours."""
TABLE_CLEARANCE_M: Final = 0.002
"""Minimum height above the table, small because grippers pick objects up from it."""


class Twin:
    """Forward kinematics and collisions of both arms. Not shared between threads.

    Args:
        table_z: height of the table's surface above the world's origin [m].
    """

    def __init__(self, table_z: float = 0.0) -> None:
        self._model = mujoco.MjModel.from_xml_string(_xml(table_z))
        self._data = mujoco.MjData(self._model)
        self._tips = [self._model.site(f"{side}_tip").id for side in workcell.SIDES]

    def contact(self, joints: Float64[np.ndarray, "2 7"]) -> str | None:
        """Move the twin to joint positions [rad]; describe the first pair of parts that are too close, None if none is.

        Afterwards `tips` are those of `joints`.
        """
        self.move(joints)
        mujoco.mj_collision(self._model, self._data)
        if not self._data.ncon:
            return None
        first = self._data.contact[0]
        one, other = (self._model.geom(int(g)).name.replace("_", " ") for g in first.geom)
        return f"{one} and {other} {f'{1000 * first.dist:.0f} mm apart' if first.dist > 0 else 'meet'}"

    def move(self, joints: Float64[np.ndarray, "2 7"]) -> None:
        """Move the twin to joint positions [rad]."""
        self._data.qpos[:] = joints.ravel()
        mujoco.mj_kinematics(self._model, self._data)

    def tips(self) -> Float64[np.ndarray, "2 3"]:
        """Return both grasp points in the world frame [m]."""
        positions: Float64[np.ndarray, "2 3"] = self._data.site_xpos[self._tips]
        return positions


def _xml(table_z: float) -> str:
    half, centre = workcell.numbers(workcell.TABLE_HALF_M), workcell.TABLE_CENTRE_M
    table = (
        f'<geom name="table" type="box" size="{half}" pos="{workcell.numbers((*centre[:2], centre[2] + table_z))}"/>'
    )
    return (
        f'<mujoco model="twin"><compiler angle="radian"/>{workcell.DEFAULTS}<worldbody>{table}{workcell.pedestals()}'
        f"{workcell.fixed_gripper_arms(rm75.FINGER_TRAVEL_M)}</worldbody><contact>{_pairs()}</contact></mujoco>"
    )


def _pairs() -> str:
    """Return the MJCF contact pairs to check, independent of the collision groups of the suite."""
    left, right = ([f"{side}_{part}" for part in _CHAIN] for side in workcell.SIDES)
    within = [(arm[i], arm[j]) for arm in (left, right) for i, j in _APART]
    under = [(part, thing) for arm in (left, right) for part in arm[_COLUMN:] for thing in _THINGS]
    margins = [(ARM_CLEARANCE_M, pair) for pair in (*itertools.product(left, right), *within)]
    margins += [(TABLE_CLEARANCE_M, pair) for pair in under]
    # Without a gap, a contact is reported only for geoms closer than the margin.
    return "".join(f'<pair geom1="{one}" geom2="{other}" margin="{margin}"/>' for margin, (one, other) in margins)


_THINGS: Final = ("table", *(f"{side}_pedestal" for side in workcell.SIDES))
_CHAIN: Final = (*(f"link{i + 1}" for i in range(rm75.N_JOINTS)), "palm", "finger_a", "pad_a", "finger_b", "pad_b")
_COLUMN = 2  # links 1 and 2 are the column that an arm stands on
_NEIGHBOURS = 3  # capsules closer than this along the chain touch at joint positions that the real arm can reach
_APART: Final = tuple(
    (i, j)
    for i, j in itertools.combinations(range(len(_CHAIN)), 2)
    # Parts of the gripper move with the last link.
    if min(j, rm75.N_JOINTS - 1) - i >= _NEIGHBOURS
)
