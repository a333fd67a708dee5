"""Identities of runs."""

from __future__ import annotations

from typing import Any

from robotest.runs.spec import Identity


def identity(**fields: Any) -> Identity:
    """Return one that records what every version records, and the fields given."""
    always = {
        "env": "fake",
        "setting": "plain",
        "action_mode": "tip",
        "wording": "seen",
        "image_size": 16,
        "policy": "fake",
        "policy_fingerprint": "fake-weights",
        "candidates": 4,
        "execute": 6,
        "seed": 0,
    }
    return Identity(**{**always, **fields})
