"""Layout of the workcell. World frame: origin at the table's centre, x to the right, y forward, z up [m]."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from robotest.embodiment import rm75

SIDES: Final = ("left", "right")
BASE_POSITION_M: Final = ((-0.22, -0.30, 0.10), (0.22, -0.30, 0.10))
BASE_YAW_RAD: Final = np.pi / 2  # an arm bends towards its own +x, which is the world's +y

TABLE_HALF_M: Final = (0.55, 0.27, 0.02)
TABLE_CENTRE_M: Final = (0.0, 0.05, -0.02)
"""Centre of the table's box, with its surface at z = 0."""
PEDESTAL_M: Final = (0.07, 0.425)
"""Radius and half height of the pedestal under an arm."""
PEDESTAL_Z_M: Final = -0.325

DOWN_REST_RAD: Final = np.array(
    [[0.0, 0.70, 0.0, 1.50, 0.0, 0.94, -np.pi / 2], [0.0, 0.70, 0.0, 1.50, 0.0, 0.94, -np.pi / 2]]
)
"""Rest posture for the null space: mid-range joint positions with the gripper pointing down [rad]."""

DEFAULTS: Final = """
<default>
  <geom contype="0" conaffinity="0"/>
  <default class="link"><geom type="capsule"/></default>
  <default class="gripper"><geom type="capsule" contype="2" conaffinity="1" condim="3" friction="0.6"/></default>
  <default class="pad"><geom type="box" contype="2" conaffinity="1" condim="4" friction="1.5 0.02 0.0001"
    priority="1" rgba="0.1 0.1 0.1 1"/></default>
</default>
"""


def numbers(values: tuple[float, ...]) -> str:
    """Format numbers for an MJCF attribute."""
    return " ".join(f"{v:g}" for v in values)


def pedestals(attributes: str = "") -> str:
    """Return the MJCF geoms of the arms' pedestals."""
    return "".join(
        f'<geom name="{side}_pedestal" type="cylinder" size="{numbers(PEDESTAL_M)}"'
        f' pos="{numbers((*position[:2], PEDESTAL_Z_M))}" {attributes}/>'
        for side, position in zip(SIDES, BASE_POSITION_M, strict=True)
    )


def arms_body() -> str:
    """Return the MJCF bodies of both arms."""
    return _arms(opened=0.0)


def fixed_gripper_arms(opened: float) -> str:
    """Return the MJCF bodies of both arms with fixed fingers, each `opened` [m] from closed."""
    return _without_fingers(_arms(opened))


def _arms(opened: float) -> str:
    return "".join(
        rm75.arm_body(side, position, BASE_YAW_RAD, "0.82 0.82 0.85 1", opened)
        for side, position in zip(SIDES, BASE_POSITION_M, strict=True)
    )


def kinematic_xml() -> str:
    """Return MJCF of the two arms alone, without finger joints, for kinematics."""
    return f'<mujoco><compiler angle="radian"/>{DEFAULTS}<worldbody>{fixed_gripper_arms(0.0)}</worldbody></mujoco>'


def _without_fingers(xml: str) -> str:
    return re.sub(r'<joint name="\w+_finger_\w+"[^>]*/>', "", xml)
