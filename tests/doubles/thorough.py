"""How much the tests try.

Every change tries the members of a family that differ from each other, and a few of what is drawn at random;
``ROBOTEST_THOROUGH=1`` tries them all, and more, as before a release.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

THOROUGH = "ROBOTEST_THOROUGH" in os.environ
T = TypeVar("T")


def some(members: Sequence[T], every: int) -> Sequence[T]:
    """Return one in `every` members, or all of them."""
    return members if THOROUGH else members[::every]
