"""What tests need of simulators that are not everywhere."""

from __future__ import annotations

import pytest

from robotest.errors import RobotestError


def require_robosuite() -> None:
    """Skip where robosuite is not installed."""
    try:
        from robotest.envs.robosuite.world import import_robosuite

        import_robosuite()
    except RobotestError as error:
        pytest.skip(str(error), allow_module_level=True)


def require_libero() -> None:
    """Skip where LIBERO or its assets are missing, or MuJoCo's contacts are not those of LIBERO's published rates."""
    require_robosuite()
    try:
        from robotest.envs import physics
        from robotest.envs.libero import files

        files.assets().require()
        physics.published_caveats("LIBERO", {})
    except RobotestError as error:
        pytest.skip(str(error), allow_module_level=True)
