"""The RealMan RM75-6F with a Robotiq 2F-85-like gripper: kinematic data, and a capsule model built from them.

Kinematic data were read from the vendor's SDK (PyPI `Robotic_Arm` 1.1.6, class `Algo` with
``RM_MODEL_RM_75_E`` and force type ``RM_MODEL_RM_SF_E``: ``rm_algo_get_dh``, ``rm_algo_get_joint_{min,max}_limit``,
``rm_algo_get_joint_max_speed``). The arm is of the S-R-S kind: with every joint at zero it stands straight up, all
frames are parallel, and the axes alternate z, y, z, y, z, y, z. Capsule radii and masses are round numbers near the
real arm's; no mesh is used.
"""

from __future__ import annotations

from typing import Final

import numpy as np

DH_D_M: Final = (0.2405, 0.0, 0.256, 0.0, 0.210, 0.0, 0.1725)
"""Standard DH link offsets d [m]; every a is 0."""
DH_ALPHA_DEG: Final = (-90.0, 90.0, -90.0, 90.0, -90.0, 90.0, 0.0)
"""Standard DH twists alpha [deg]; joint offsets are 0."""
JOINT_LIMIT_RAD: Final = np.deg2rad([178.0, 130.0, 178.0, 135.0, 178.0, 128.0, 360.0])
"""Joint positions lie within plus and minus these [rad]."""
JOINT_SPEED_RAD_S: Final = np.deg2rad([180.0, 180.0, 225.0, 225.0, 225.0, 225.0, 225.0])
"""Largest joint speeds [rad/s]."""
N_JOINTS: Final = 7

TIP_FROM_FLANGE_M: Final = 0.150
"""Distance from the flange to the grasp point between the finger pads, along the approach axis [m]."""
FINGER_TRAVEL_M: Final = 0.0425
"""Each finger's travel from closed to open [m]; the full opening is 85 mm."""

_AXES = ("0 0 1", "0 1 0", "0 0 1", "0 1 0", "0 0 1", "0 1 0", "0 0 1")
# (length along z [m], capsule radius [m], mass [kg]) of the link that follows each joint.
_LINKS = (
    (DH_D_M[0], 0.050, 2.0),
    (0.12, 0.042, 1.5),
    (DH_D_M[2] - 0.12, 0.040, 1.2),
    (0.10, 0.036, 1.0),
    (DH_D_M[4] - 0.10, 0.034, 0.8),
    (0.08, 0.032, 0.6),
    (DH_D_M[6] - 0.08, 0.030, 0.4),
)
_STIFFNESS = (3000, 3000, 2000, 2000, 800, 800, 400)  # position servo [N m/rad]
_DAMPING = (120, 120, 70, 70, 20, 20, 8)  # [N m s/rad], about critical with the armature below
_ARMATURE = (0.8, 0.8, 0.4, 0.4, 0.08, 0.08, 0.03)  # reflected motor inertia [kg m^2]
_TORQUE = (60, 60, 30, 30, 10, 10, 10)  # [N m], RM75 nominal torques rounded


def arm_body(side: str, position: tuple[float, float, float], yaw: float, rgba: str, opened: float = 0.0) -> str:
    """Return the MJCF ``<body>`` of one arm and gripper, all names prefixed by `side`.

    Args:
        side: ``left`` or ``right``.
        position: of the base in the world [m].
        yaw: of the base about z [rad].
        rgba: colour of the links.
        opened: opening of each finger at joint position zero [m].
    """
    gripper = _gripper(side, opened)
    # Joint i sits at the end of the link before it: links 1, 3, 5 start at joints 2, 4, 6 (d = 0 in between).
    starts = (0.0, DH_D_M[0], 0.12, DH_D_M[2] - 0.12, 0.10, DH_D_M[4] - 0.10, 0.08)
    body = gripper
    for i in reversed(range(N_JOINTS)):
        length, radius, mass = _LINKS[i]
        collides = 'class="gripper"' if i >= 5 else 'class="link"'
        joint_range = f"{-JOINT_LIMIT_RAD[i]:.6f} {JOINT_LIMIT_RAD[i]:.6f}"
        body = (
            f'<body name="{side}_link{i + 1}" pos="0 0 {starts[i]:.4f}" gravcomp="1">'
            f'<joint name="{side}_joint{i + 1}" axis="{_AXES[i]}" range="{joint_range}" armature="{_ARMATURE[i]}"/>'
            f'<geom name="{side}_link{i + 1}" {collides} fromto="0 0 0 0 0 {length:.4f}" size="{radius}"'
            f' mass="{mass}" rgba="{rgba}"/>'
            f"{body}</body>"
        )
    x, y, z = position
    return f'<body name="{side}_base" pos="{x} {y} {z}" euler="0 0 {yaw:.6f}">{body}</body>'


def _gripper(side: str, opened: float) -> str:
    pad_z = TIP_FROM_FLANGE_M - 0.012
    # The camera sits on the outer side and looks inwards; in its picture right and up are the world's x and y.
    x = -0.075 if side == "left" else 0.075
    fingers = "".join(
        f'<body name="{side}_finger_{n}" pos="0 {sign * (0.006 + opened)} 0" gravcomp="1">'
        f'<joint name="{side}_finger_{n}" type="slide" axis="0 {sign} 0" range="0 {FINGER_TRAVEL_M}"'
        f' armature="0.05" damping="2"/>'
        f'<geom name="{side}_finger_{n}" class="gripper" type="box" pos="0 {sign * 0.004} 0.095"'
        f' size="0.010 0.005 0.035" mass="0.05" rgba="0.15 0.15 0.17 1"/>'
        f'<geom name="{side}_pad_{n}" class="pad" pos="0 0 {pad_z:.4f}" size="0.011 0.006 0.022" mass="0.03"/></body>'
        for n, sign in (("a", 1), ("b", -1))
    )
    return (
        f'<body name="{side}_hand" pos="0 0 {DH_D_M[6] - 0.08:.4f}" gravcomp="1">'
        f'<geom name="{side}_palm" class="gripper" type="box" pos="0 0 0.035" size="0.022 0.045 0.03" mass="0.5"'
        f' rgba="0.2 0.2 0.22 1"/>'
        f'<site name="{side}_tip" pos="0 0 {TIP_FROM_FLANGE_M}" size="0.004"/>'
        f'<camera name="{side}_wrist" pos="{x} 0 0.005" xyaxes="0.94 0 {0.34 * np.sign(x):.2f} 0 -1 0" fovy="52"/>'
        f"{fingers}</body>"
    )


def actuators(side: str) -> str:
    """Return the MJCF position servos of one arm (7 joints) and its gripper (one motor for both fingers)."""
    joints = "".join(
        f'<position joint="{side}_joint{i + 1}" kp="{_STIFFNESS[i]}" kv="{_DAMPING[i]}"'
        f' forcerange="{-_TORQUE[i]} {_TORQUE[i]}"/>'
        for i in range(N_JOINTS)
    )
    return joints + f'<position joint="{side}_finger_a" kp="600" kv="30" forcerange="-25 25"/>'


def couplings(side: str) -> str:
    """Return the MJCF equality that makes the second finger mirror the first, as the gripper's linkage does."""
    return f'<joint joint1="{side}_finger_b" joint2="{side}_finger_a" solref="0.008 1"/>'
