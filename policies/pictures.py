"""Pictures of an environment at the size of a model."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize_with_pad(
    picture: UInt8[np.ndarray, "h w 3"], size: int, padding: str = "centre"
) -> UInt8[np.ndarray, "size size 3"]:
    """Resize a picture to a square (bicubic), its proportions kept by black bars.

    Args:
        picture: RGB.
        size: of the square [px].
        padding: where bars go, see `Interface.padding`.
    """
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    ratio = max(height, width) / size
    inner = max(1, int(height / ratio)), max(1, int(width / ratio))
    resized = np.asarray(Image.fromarray(picture).resize(inner[::-1], Image.Resampling.BICUBIC))
    top, left = [(size - side) // 2 if padding == "centre" else 0 for side in inner]
    padded = np.zeros((size, size, 3), np.uint8)
    padded[top : top + inner[0], left : left + inner[1]] = resized
    return padded
