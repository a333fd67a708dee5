"""Makes every annotation of the numpy parts, shapes too, a check while the tests run; outside they cost nothing.

The checks double what simulated episodes take, so continuous integration sets ROBOTEST_UNCHECKED for the slow tests.
"""

from __future__ import annotations

import os

import hypothesis
import jaxtyping
from beartype import BeartypeConf, beartype

from robotest.gl import use_headless_gl
from robotest.threads import VARIABLES

# Beside each other, workers whose sums are shared out over all processors mostly wait; before anything loads a BLAS.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(dict.fromkeys(VARIABLES, "1"))

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy

PARTS = """
    demonstrations.collect evaluation runtime.rollout runtime.selector runs specs statistics.paired testing types
    embodiment envs.dual_arm.expert envs.dual_arm.randomize envs.dual_arm.tasks envs.dual_arm.world hardware verifiers
"""
if "ROBOTEST_UNCHECKED" not in os.environ:
    jaxtyping.install_import_hook([f"robotest.{part}" for part in PARTS.split()], "tests.conftest.checked")

# How long an example takes says more about this machine than about the code.
hypothesis.settings.register_profile("robotest", deadline=None)
hypothesis.settings.load_profile("robotest")

# MuJoCo chooses its renderer when it is first imported, and some tests import it before any of this package.
use_headless_gl()
