"""Anomaly maps drawn over images, and the legend of their colours."""

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup
from PIL import Image

from crn.report.pages import render
from crn.report.pictures import heat_map, share_of_range

# Opacity of the hottest colour; the coldest is transparent.
_OPACITY = 0.75
# Contours are white with a black border, visible on every colour; masks have no heat colour.
CONTOUR, BORDER, MASK = (255, 255, 255), (0, 0, 0), (0, 230, 255)
# The longer side of an image, in pixels, for each pixel of the width of lines.
_PIXELS_PER_LINE = 384
_COLOURS = 256  # in the legend


@dataclass(frozen=True)
class ColourScale:
    """The colours of all overlays of a run.

    Attributes:
        low, high: values with the first and the last colour.
        threshold: contours surround higher values; None without a threshold.
    """

    low: float
    high: float
    threshold: float | None


def overlay(
    image: Image.Image, anomaly_map: np.ndarray, scale: ColourScale, mask: np.ndarray | None = None
) -> Image.Image:
    """Draw the anomaly map over the gray image, with contours around values above the threshold.

    Args:
        image: W x H pixels, of any mode.
        anomaly_map: (H, W).
        scale: colours and threshold.
        mask: (H, W) bool, for its outline.
    """
    colours = heat_map(anomaly_map, scale.low, scale.high)
    share = share_of_range(anomaly_map, scale.low, scale.high)
    opacity = np.rint(share * (255 * _OPACITY)).astype(np.uint8)
    gray = image.convert("L").convert("RGB")
    picture = np.array(Image.composite(colours, gray, Image.fromarray(opacity)))
    width = line_width(*anomaly_map.shape)
    if mask is not None:
        picture[outline(mask, width)] = MASK
    if scale.threshold is not None and (above := anomaly_map > scale.threshold).any():
        picture[outline(~above, width)] = BORDER
        picture[outline(above, width)] = CONTOUR
    return Image.fromarray(picture)


def line_width(height: int, width: int) -> int:
    """The width in pixels of lines on a picture of this size."""
    return max(1, round(max(height, width) / _PIXELS_PER_LINE))


def outline(region: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a region (H, W) bool that are at most ``width`` pixels from its outside.

    Pixels beyond the border of the picture do not count as outside.
    """
    from scipy.ndimage import binary_erosion

    return region & ~binary_erosion(region, iterations=width, border_value=1)


def legend(scale: ColourScale, masks: bool) -> Markup:
    """The legend of overlays as SVG; ``masks``: whether they show outlines of masks."""
    lines, threshold = [], None
    if scale.threshold is not None:
        threshold = float(share_of_range(scale.threshold, scale.low, scale.high))
        lines.append((CONTOUR, f"contour: the anomaly map is above {scale.threshold:.4g}"))
    if masks:
        lines.append((MASK, "outline of the mask: what the data set calls anomalous"))
    file = io.BytesIO()
    _colour_bar(scale).save(file, "PNG")
    return render(
        "legend.svg",
        scale=scale,
        bar=base64.b64encode(file.getvalue()).decode(),
        threshold=threshold,
        lines=lines,
        border=BORDER,
        contour=CONTOUR,
    )


def _colour_bar(scale: ColourScale) -> Image.Image:
    """All colours from the lowest to the highest value, two pixels high.

    They are transparent: the upper row is over light gray, the lower row over dark gray.
    """
    gray = Image.fromarray(np.full((2, _COLOURS), [[200], [60]], np.uint8))
    ramp = np.linspace(scale.low, scale.high, _COLOURS, dtype=np.float32)
    return overlay(gray, np.tile(ramp, (2, 1)), replace(scale, threshold=None))
