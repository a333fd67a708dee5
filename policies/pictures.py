"""Pictures as foreign vision towers read them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from robotest.interface import Interface


def pixels(
    images: Mapping[str, UInt8[np.ndarray, "h w 3"]], interface: Interface, size: int
) -> Float32[Tensor, "cameras 3 size size"]:
    """Return the cameras of an interface in its order, in [-1, 1] as SigLIP reads them.

    Args:
        images: of an observation.
        interface: says which cameras, and how to pad.
        size: of the tower's pictures [px].
    """
    resized = [resize_with_pad(images[slot.camera], size, interface.padding) for slot in interface.cameras]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 127.5 - 1


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
