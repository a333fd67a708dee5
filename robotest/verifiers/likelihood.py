"""Likelihood: the candidate that the policy itself holds to be the most likely.

Autoregressive policies know the probability of what they sample (`Candidates.log_probs`); policies that denoise do not,
and are refused. It takes the most likely of M draws, so one candidate is a plain sample, and many are a search for the
mode.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from robotest.errors import SpecMismatchError
from robotest.specs import PolicySpec, VerifierSpec
from robotest.types import Candidates, Context, Verifier
from robotest.verifiers.controls import Control

_SPEC = VerifierSpec("likelihood", log_probs=True)


def make(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001 - the factories' signature
    """Make the verifier; `SpecMismatchError` if the policy has no log-probabilities."""
    _SPEC.require_fits(policy)
    return Control(_SPEC, _score)


def _score(context: Context, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:  # noqa: ARG001
    if candidates.log_probs is None:
        raise SpecMismatchError("verifier 'likelihood' needs log-probabilities; the candidates have none")
    return candidates.log_probs.astype(np.float64)
