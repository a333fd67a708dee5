"""Styles of scripted experts: deviations from the direct behaviour that still succeed.

They are the premise of TACO (arXiv 2512.02834, section 3): all demonstrations *succeed*, but some modes are worse to
imitate than others, and a policy that learns all of them may sample a bad one.
"""

from __future__ import annotations

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True)
class Style:
    """How an expert deviates from the direct behaviour.

    Attributes:
        grasp_offset_m: grasp this far off the middle, along the jaws' flat side [m].
        detour_m: swing this far sideways on the way to a goal [m].
        pause_steps: hesitate this many steps above the object, and draw back.
        release_height_m: release this far above the goal, or close this far too high [m].
        other_first: the other arm, or the other order of arms, goes first.
    """

    grasp_offset_m: float = 0.0
    detour_m: float = 0.0
    pause_steps: int = 0
    release_height_m: float = 0.0
    other_first: bool = False


STYLES: Final = {
    "clean": Style(),
    "off_centre": Style(grasp_offset_m=0.013),
    "detour": Style(detour_m=0.09),
    "hesitant": Style(pause_steps=5),
    "early_release": Style(release_height_m=0.03),
    "other_arm_first": Style(other_first=True),
}
