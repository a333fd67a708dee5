"""Physics and rendering of the dual-arm suite: a table, two arms, and a task's objects in MuJoCo."""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from jaxtyping import Float64, UInt8

from robotest.embodiment import rm75, workcell
from robotest.envs.physics import require_sound

PHYSICS_DT: Final = 0.004  # [s]
CONTROL_DT: Final = 0.1  # [s]
CAMERAS: Final = ("head", "left_wrist", "right_wrist")
COLOURS: Final = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.25, 0.90),
    "yellow": (0.95, 0.80, 0.05),
}
N_DISTRACTORS: Final = 3
_RAMP_SEGMENTS = 5  # the joint command ramps to its new value in this many steps per control step
_SUBSTEPS = round(CONTROL_DT / PHYSICS_DT / _RAMP_SEGMENTS)
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION

_SCENE = """
<mujoco model="dual_arm">
  <compiler angle="radian"/>
  <option timestep="{dt}" integrator="implicitfast" cone="elliptic" impratio="5" iterations="30"/>
  <size memory="4M"/>
  <visual>
    <global offwidth="960" offheight="720"/>
    <quality shadowsize="0" offsamples="0" numslices="10" numstacks="6"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.45 0.45 0.45" specular="0 0 0"/>
    <map znear="0.02" zfar="8"/>
  </visual>
  {defaults}
  <worldbody>
    <light name="sun" pos="0.2 -0.3 2" dir="-0.1 0.15 -1" diffuse="0.35 0.35 0.35" specular="0 0 0" castshadow="false"/>
    <camera name="head" pos="0 -0.26 0.98" xyaxes="1 0 0 0 0.96 0.28" fovy="21"/>
    <camera name="front" pos="0 1.00 0.70" xyaxes="-1 0 0 0 -0.55 0.835" fovy="46"/>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.75" rgba="0.55 0.57 0.60 1"/>
    <body name="table">
      <geom name="table" type="box" size="{table_half}" pos="{table_centre}" contype="1" conaffinity="3"
        friction="1 0.01 0.0001" rgba="0.72 0.66 0.58 1"/>
    </body>
    {pedestals}
    {arms}
    {distractors}
    {objects}
  </worldbody>
  <equality>{couplings}</equality>
  <actuator>{actuators}</actuator>
</mujoco>
"""


def block(name: str, half: tuple[float, float, float], mass: float) -> str:
    """Return MJCF of a free box with half sizes `half` [m]."""
    size = " ".join(f"{h:.4f}" for h in half)
    return (
        f'<body name="{name}"><freejoint name="{name}"/>'
        f'<geom name="{name}" type="box" size="{size}" mass="{mass}" contype="1" conaffinity="3" condim="4"'
        f' friction="1 0.01 0.0001"/></body>'
    )


def pad(name: str, radius: float) -> str:
    """Return MJCF of a flat disc that marks a place and has no contacts."""
    return f'<body name="{name}"><geom name="{name}" type="cylinder" size="{radius} 0.0015" pos="0 0 0.001"/></body>'


def _distractor(i: int) -> str:
    shape = ('type="box" size="0.02 0.02 0.02"', 'type="cylinder" size="0.02 0.02"', 'type="sphere" size="0.022"')[
        i % 3
    ]
    # Parked under the floor unless the setting places them.
    return f'<body name="distractor_{i}" pos="0 0 -2"><geom name="distractor_{i}" {shape}/></body>'


class World:
    """One compiled scene with its dynamic state: named poses in and out, motion, pictures.

    All positions are in the world frame [m]; the table's surface is at `table_z`.
    """

    def __init__(self, objects: str) -> None:
        xml = _SCENE.format(
            dt=PHYSICS_DT,
            defaults=workcell.DEFAULTS,
            table_half=workcell.numbers(workcell.TABLE_HALF_M),
            table_centre=workcell.numbers(workcell.TABLE_CENTRE_M),
            pedestals=workcell.pedestals('rgba="0.3 0.3 0.32 1"'),
            arms=workcell.arms_body(),
            distractors="".join(_distractor(i) for i in range(N_DISTRACTORS)),
            objects=objects,
            couplings="".join(rm75.couplings(s) for s in workcell.SIDES),
            actuators="".join(rm75.actuators(s) for s in workcell.SIDES),
        )
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.table_z = 0.0
        self._pristine = {k: getattr(self.model, k).copy() for k in _RANDOMISED_FIELDS}
        joints = [[self.model.joint(f"{s}_joint{i + 1}") for i in range(rm75.N_JOINTS)] for s in workcell.SIDES]
        self._joint_qpos = np.array([[j.qposadr[0] for j in arm] for arm in joints])
        self._joint_dof = np.array([[j.dofadr[0] for j in arm] for arm in joints])
        fingers = [self.model.joint(f"{s}_finger_{f}") for s in workcell.SIDES for f in ("a", "b")]
        everything = [*(j for arm in joints for j in arm), *fingers]
        self._arm_qpos = np.array([j.qposadr[0] for j in everything])
        self._arm_dof = np.array([j.dofadr[0] for j in everything])
        self._finger_qpos = np.array([self.model.joint(f"{s}_finger_a").qposadr[0] for s in workcell.SIDES])
        self._arm_ctrl = np.array([[8 * arm + i for i in range(rm75.N_JOINTS)] for arm in (0, 1)])
        self._finger_ctrl = np.array([7, 15])
        self._tip_sites = [self.model.site(f"{s}_tip").id for s in workcell.SIDES]
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    # -- state -----------------------------------------------------------------------------------------------------

    def reset(self, joints: Float64[np.ndarray, "2 7"]) -> None:
        """Undo the randomisation, open the grippers, and put the arms at `joints` [rad]."""
        for field, value in self._pristine.items():
            getattr(self.model, field)[:] = value
        self.table_z = 0.0
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._joint_qpos] = joints
        for side in workcell.SIDES:
            for finger in ("a", "b"):
                self.data.joint(f"{side}_finger_{finger}").qpos[0] = rm75.FINGER_TRAVEL_M
        self.data.ctrl[self._arm_ctrl] = joints
        self.data.ctrl[self._finger_ctrl] = rm75.FINGER_TRAVEL_M

    def refresh(self) -> None:
        """Recompute poses from positions without changing the state of the dynamics."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def settle(self, steps: int) -> None:
        """Simulate `steps` physics steps, for objects to come to rest."""
        self.advance(steps)
        self.refresh()

    def snapshot(self) -> Float64[np.ndarray, " n"]:
        """Return MuJoCo's integration state."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return state

    def restore(self, state: Float64[np.ndarray, " n"]) -> None:
        """Inverse of `snapshot`."""
        # A copy: MuJoCo 3.3 refuses read-only arrays, such as those from other processes.
        mujoco.mj_setState(self.model, self.data, np.array(state, np.float64), _STATE)
        self.refresh()

    # -- objects ---------------------------------------------------------------------------------------------------

    def raise_table(self, by: float) -> None:
        """Raise the table's surface to `by` [m] without moving the arms; place objects afterwards."""
        self.table_z = by
        self.model.body("table").pos[2] = by

    def place(self, body: str, xyz: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Put an object with its origin `xyz` [m], z above the *table's surface*, turned by `yaw` [rad]."""
        x, y, z = xyz
        position = (x, y, z + self.table_z)
        quaternion = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        if self.model.body(body).jntnum[0] and self.model.joint(body).type[0] == mujoco.mjtJoint.mjJNT_FREE:
            self.data.joint(body).qpos[:] = (*position, *quaternion)
        else:
            self.model.body(body).pos[:] = position
            self.model.body(body).quat[:] = quaternion

    def paint(self, geom: str, rgb: tuple[float, float, float]) -> None:
        """Colour a geom."""
        self.model.geom(geom).rgba[:] = (*rgb, 1.0)

    def position(self, body: str) -> Float64[np.ndarray, " 3"]:
        """Origin of a body [m]."""
        xpos: Float64[np.ndarray, " 3"] = self.data.body(body).xpos.copy()
        return xpos

    def rotation(self, body: str) -> Float64[np.ndarray, "3 3"]:
        """World-from-body rotation."""
        matrix: Float64[np.ndarray, "3 3"] = self.data.body(body).xmat.reshape(3, 3).copy()
        return matrix

    def yaw(self, body: str) -> float:
        """Heading of a body's x axis [rad]."""
        matrix = self.rotation(body)
        return float(np.arctan2(matrix[1, 0], matrix[0, 0]))

    def speed(self, body: str) -> float:
        """Linear speed of a free body [m/s]."""
        return float(np.linalg.norm(self.data.joint(body).qvel[:3]))

    def slide(self, joint: str) -> float:
        """Position of a sliding joint [m]."""
        return float(self.data.joint(joint).qpos[0])

    # -- arms ------------------------------------------------------------------------------------------------------

    def joints(self) -> Float64[np.ndarray, "2 7"]:
        """Measured joint positions [rad]."""
        values: Float64[np.ndarray, "2 7"] = self.data.qpos[self._joint_qpos]
        return values

    def commanded_joints(self) -> Float64[np.ndarray, "2 7"]:
        """Last commanded joint positions [rad]."""
        values: Float64[np.ndarray, "2 7"] = self.data.ctrl[self._arm_ctrl]
        return values

    def openings(self) -> Float64[np.ndarray, " 2"]:
        """Measured gripper openings, 0 closed to 1 open."""
        values: Float64[np.ndarray, " 2"] = self.data.qpos[self._finger_qpos] / rm75.FINGER_TRAVEL_M
        return values

    def tip(self, arm: int) -> Float64[np.ndarray, " 3"]:
        """Measured grasp point of an arm [m]."""
        xpos: Float64[np.ndarray, " 3"] = self.data.site_xpos[self._tip_sites[arm]].copy()
        return xpos

    def joint_speeds(self) -> Float64[np.ndarray, "2 7"]:
        """Measured joint speeds [rad/s]."""
        values: Float64[np.ndarray, "2 7"] = self.data.qvel[self._joint_dof]
        return values

    def joint_torques(self) -> Float64[np.ndarray, "2 7"]:
        """Torques of the joint servos in the last physics step [N m]."""
        values: Float64[np.ndarray, "2 7"] = self.data.actuator_force[self._arm_ctrl]
        return values

    def arms(self) -> Float64[np.ndarray, "2 18"]:
        """Positions and speeds of all joints of the arms and of their fingers, for `put_arms`."""
        return np.stack([self.data.qpos[self._arm_qpos].ravel(), self.data.qvel[self._arm_dof].ravel()])

    def put_arms(self, state: Float64[np.ndarray, "2 18"]) -> None:
        """Restore the arms from `arms`; objects and set-points are unchanged."""
        self.data.qpos[self._arm_qpos], self.data.qvel[self._arm_dof] = state
        self.refresh()

    def servo(self, joints: Float64[np.ndarray, "2 7"], openings: Float64[np.ndarray, " 2"]) -> None:
        """Set the servos' set-points without a ramp: joint positions [rad] and gripper openings [0, 1]."""
        self.data.ctrl[self._arm_ctrl] = joints
        self.data.ctrl[self._finger_ctrl] = openings * rm75.FINGER_TRAVEL_M

    def advance(self, steps: int = 1) -> None:
        """Simulate `steps` of `PHYSICS_DT` with constant set-points; call `refresh` to update poses.

        Raises:
            RobotestError: the simulation diverged.
        """
        mujoco.mj_step(self.model, self.data, steps)
        require_sound(self.data)

    def move(self, joints: Float64[np.ndarray, "2 7"], openings: Float64[np.ndarray, " 2"]) -> None:
        """Command joint positions [rad] and gripper openings [0, 1], and simulate one control step."""
        start = self.commanded_joints()
        self.data.ctrl[self._finger_ctrl] = openings * rm75.FINGER_TRAVEL_M
        for segment in range(1, _RAMP_SEGMENTS + 1):
            self.data.ctrl[self._arm_ctrl] = start + (joints - start) * (segment / _RAMP_SEGMENTS)
            self.advance(_SUBSTEPS)
        self.refresh()

    # -- pictures --------------------------------------------------------------------------------------------------

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a camera's picture."""
        renderer = self._renderers.get((height, width))
        if renderer is None:
            renderer = self._renderers[height, width] = mujoco.Renderer(self.model, height, width)
        renderer.update_scene(self.data, camera)
        picture: UInt8[np.ndarray, "height width 3"] = renderer.render()
        return picture

    def project(self, camera: str, aspect: float, point: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, " 2"]:
        """Project a point [m] into a picture with aspect ratio `aspect`: x right, y down, in [-1, 1] inside it."""
        view = self.data.camera(camera)
        x, y, z = view.xmat.reshape(3, 3).T @ (point - view.xpos)
        scale = -1 / (z * np.tan(np.deg2rad(self.model.camera(camera).fovy[0]) / 2))
        return np.array([x * scale / aspect, -y * scale])

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


_RANDOMISED_FIELDS: Final = (
    "geom_rgba",
    "body_pos",
    "body_quat",
    "cam_pos",
    "cam_quat",
    "light_pos",
    "light_diffuse",
)
