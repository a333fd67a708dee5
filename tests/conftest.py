"""Makes every annotation of the numpy parts, shapes too, a check while the fast tests run.

The checks double what simulated episodes take, so the slow tests run without them unless ROBOTEST_CHECK_SLOW is set.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import hypothesis
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

from robotest.gl import use_headless_gl
from robotest.threads import VARIABLES
from tests.doubles.thorough import THOROUGH

# Beside each other, workers whose sums are shared out over all processors mostly wait; before anything loads a BLAS.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(dict.fromkeys(VARIABLES, "1"))

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy

PARTS = """
    demonstrations.collect evaluation runtime.rollout runtime.selector runs specs statistics.paired testing types
    embodiment envs.dual_arm.expert envs.dual_arm.randomize envs.dual_arm.tasks envs.dual_arm.world hardware verifiers
"""
jaxtyping.install_import_hook([f"robotest.{part}" for part in PARTS.split()], "tests.conftest.checked")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a real-time test where `make test` does not look for one."""
    astray = [i.nodeid for i in items if i.get_closest_marker("realtime") and i.path.parent.name != "hardware"]
    if astray:
        raise pytest.UsageError(f"real-time tests belong in tests/hardware: {', '.join(astray)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Turn the checks on or off, fixtures included."""
    unchecked = item.get_closest_marker("slow") is not None and "ROBOTEST_CHECK_SLOW" not in os.environ
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    return (yield)


# How long an example takes says more about this machine than about the code. Every change draws examples of its own.
hypothesis.settings.register_profile("robotest", deadline=None, max_examples=200 if THOROUGH else 50)
hypothesis.settings.load_profile("robotest")

# MuJoCo chooses its renderer when it is first imported, and some tests import it before any of this package.
use_headless_gl()
