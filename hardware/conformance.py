"""Conformance check of robot drivers, as `robotest.testing` has them for the other parts."""

from __future__ import annotations

import numpy as np

from robotest.hardware.robot import Robot, RobotError, Setpoint, Stop
from robotest.testing import expect, require


def check_robot(robot: Robot) -> None:
    """Check a driver's states, rounding and refusals. Powers the arms but does not move them."""
    robot.connect()
    try:
        robot.enable()
        state = robot.state()
        for name, shape in (("joints", (2, 7)), ("openings", (2,)), ("currents", (2, 7)), ("temperatures", (2, 7))):
            values = getattr(state, name)
            require(values.shape == shape and bool(np.isfinite(values).all()), f"state.{name} is {values}")
        require(bool(state.enabled.all()), "enable() returned, but a joint has no power")
        require(state.age(float(state.stamps.max())) >= 0, "state.stamps are not times")
        here = Setpoint(state.joints, state.openings)
        sent = robot.command(here)
        rounding = np.abs(sent.joints - here.joints).max()
        require(rounding <= robot.capabilities.resolution, f"command() changed a set-point by {rounding} rad")
        for defect, joints in (
            ("a NaN", np.full((2, 7), np.nan)),
            ("a missing joint", state.joints[:, :6]),
            ("a joint beyond its limit", robot.limits.joint_high + 0.1),
        ):
            with expect(RobotError, f"command() sends {defect}; RobotError is needed"):
                robot.command(Setpoint(joints, state.openings))
        robot.stop(Stop.HOLD)
        require(bool(robot.state().enabled.all()), "stop(HOLD) removed the power")
        robot.stop(Stop.DECEL_THEN_DISABLE)
        robot.stop(Stop.DECEL_THEN_DISABLE)
    finally:
        robot.disconnect()
        robot.disconnect()
