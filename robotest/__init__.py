"""robotest: paired evaluation of robot policies in simulation and on real arms.

The names below are the public interface; each is imported at its first use, so that ``import robotest`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robotest.gl import use_headless_gl

if TYPE_CHECKING:
    from robotest.config import EvalConfig as EvalConfig
    from robotest.errors import RobotestError as RobotestError
    from robotest.evaluation import evaluate as evaluate
    from robotest.loading import load_policy as load_policy
    from robotest.loading import load_verifier as load_verifier
    from robotest.loading import make_env as make_env
    from robotest.runs.results import Run as Run
    from robotest.runs.results import compare as compare
    from robotest.runs.results import load_run as load_run
    from robotest.specs import Component as Component
    from robotest.specs import EnvSpec as EnvSpec
    from robotest.specs import PolicySpec as PolicySpec
    from robotest.specs import VectorSpec as VectorSpec
    from robotest.specs import VerifierSpec as VerifierSpec
    from robotest.types import Candidates as Candidates
    from robotest.types import Env as Env
    from robotest.types import EnvOptions as EnvOptions
    from robotest.types import Episode as Episode
    from robotest.types import Observation as Observation
    from robotest.types import Policy as Policy
    from robotest.types import StepStatus as StepStatus
    from robotest.types import Suite as Suite
    from robotest.types import Verifier as Verifier

__version__ = "0.1.0"
_MODULES = {
    "config": ("EvalConfig",),
    "errors": ("RobotestError",),
    "evaluation": ("evaluate",),
    "loading": ("load_policy", "load_verifier", "make_env"),
    "runs.results": ("Run", "compare", "load_run"),
    "specs": ("Component", "EnvSpec", "PolicySpec", "VectorSpec", "VerifierSpec"),
    "types": ("Candidates", "Env", "EnvOptions", "Episode", "Observation", "Policy", "StepStatus", "Suite", "Verifier"),
}
_PUBLIC = {name: f"robotest.{module}" for module, names in _MODULES.items() for name in names}
__all__ = ["__version__", *_PUBLIC]

# MuJoCo chooses its renderer when it is first imported, which any module of this package or a plugin may do.
use_headless_gl()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'robotest' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
