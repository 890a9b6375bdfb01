"""What happens to a training image: a random crop, the resize that reduces it, and for some runs other colours.

Every draw comes from the sample's own row of noise (:func:`clipa.data.stream.sample_noise`): numbers 1 to 22 place the
crop, 23 to 29 change the colours.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
from PIL import Image, ImageEnhance

from clipa.config import Augmentation

_CROP_TRIES = 10
_HUE_SHARE = 0.25  # SimCLR's jitter of strength s: brightness, contrast, saturation 0.8 s, hue 0.2 s


def augmented(jpeg: bytes, size: int, augmentation: Augmentation, noise: np.ndarray) -> np.ndarray:
    """Random resized crop (§3.1), bilinear with anti-aliasing (§3.2): uint8 [3, size, size].

    The crop is sampled as torchvision's RandomResizedCrop does: up to ten tries of area and log-uniform ratio,
    then a centred crop within the ratio bounds. Resizing straight from the crop to the reduced size *is* the
    ``resize`` reduction. Colours are changed after it.
    """
    image = Image.open(io.BytesIO(jpeg))
    image = image.convert("RGB")
    box = crop_box(image.width, image.height, augmentation, noise)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(recoloured(resized, augmentation, noise)).transpose(2, 0, 1)


def crop_box(
    width: int, height: int, augmentation: Augmentation, noise: np.ndarray
) -> tuple[int, int, int, int]:
    """Left, upper, right, lower of the crop, in pixels; ``noise`` is the sample's row of :func:`sample_noise`."""
    low, high = np.log(augmentation.crop_ratio)
    area_low, area_high = augmentation.crop_area
    areas = width * height * (area_low + (area_high - area_low) * noise[1 : 1 + _CROP_TRIES])
    ratios = np.exp(low + (high - low) * noise[1 + _CROP_TRIES : 1 + 2 * _CROP_TRIES])
    widths = np.rint(np.sqrt(areas * ratios)).astype(int)
    heights = np.rint(np.sqrt(areas / ratios)).astype(int)
    fits = np.flatnonzero((widths > 0) & (widths <= width) & (heights > 0) & (heights <= height))
    if len(fits):
        w, h = int(widths[fits[0]]), int(heights[fits[0]])
        left, upper = int(noise[21] * (width - w + 1)), int(noise[22] * (height - h + 1))
    else:
        w = min(width, round(height * augmentation.crop_ratio[1]))
        h = min(height, round(width / augmentation.crop_ratio[0]))
        left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def recoloured(image: Image.Image, augmentation: Augmentation, noise: np.ndarray) -> Image.Image:
    """Colour jitter and grey of an RGB image (§4.3, A.2), as torchvision defines them.

    Jitter changes brightness, contrast, saturation and hue in a drawn order, each by a drawn factor.
    """
    strength = augmentation.color_jitter
    if strength and noise[23] < augmentation.color_jitter_probability:
        factors = 1 + strength * (2 * noise[24:27] - 1)
        shift = round(255 * _HUE_SHARE * strength * (2 * noise[27] - 1))
        orders = list(itertools.permutations(range(4)))
        for change in orders[int(noise[28] * len(orders))]:
            if change == 3:
                image = _hue_shifted(image, shift) if shift else image
            else:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
                image = enhance(image).enhance(float(factors[change]))
    if noise[29] < augmentation.grayscale_probability:
        image = image.convert("L").convert("RGB")
    return image


def _hue_shifted(image: Image.Image, shift: int) -> Image.Image:
    """The image with its hue turned by ``shift`` of 255 steps."""
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray((np.asarray(hue).astype(np.int16) + shift).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
