"""Anomaly maps over images: where an anomaly is, and what the colours mean."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crn.report.pictures import heat_map

# Opacity of the hottest colour; the coldest is transparent, so that normal parts stay visible.
_OPACITY = 0.75
# Contours are white with a black border, seen on every image and colour. The colour of masks is
# not among the heat colours.
CONTOUR, BORDER, MASK = (255, 255, 255), (0, 0, 0), (0, 230, 255)
# A line of one pixel for every so many pixels of the image's longer side.
_PIXELS_PER_LINE = 384


@dataclass(frozen=True)
class ColourScale:
    """The colours of all overlays of a run.

    Attributes:
        low, high: values with the first and the last colour.
        threshold: contours are drawn around what is above it; None where there is none.
    """

    low: float
    high: float
    threshold: float | None

    def share(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the first and the last colour, 0 to 1, float32."""
        span = max(self.high - self.low, np.finfo(np.float32).tiny)
        return ((values - np.float32(self.low)) / np.float32(span)).clip(0, 1)


def overlay(
    image: Image.Image,
    anomaly_map: np.ndarray,
    scale: ColourScale,
    mask: np.ndarray | None = None,
) -> Image.Image:
    """The anomaly map over the image, with the contours of what is above the threshold.

    The image is shown in gray, so that every colour is one of the map.

    Args:
        image: of any mode, W x H pixels.
        anomaly_map: (H, W).
        scale: colours and threshold.
        mask: (H, W) bool; its outline is drawn as well.
    """
    colours = heat_map(anomaly_map, scale.low, scale.high)
    opacity = np.rint(scale.share(anomaly_map) * (255 * _OPACITY)).astype(np.uint8)
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
    """Width of the lines on a picture of this size, in pixels."""
    return max(1, round(max(height, width) / _PIXELS_PER_LINE))


def outline(region: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a region (H, W) bool that are at most ``width`` pixels from its outside.

    What lies beyond the picture is no outside.
    """
    from scipy.ndimage import binary_erosion

    return region & ~binary_erosion(region, iterations=width, border_value=1)


def colour_bar(scale: ColourScale, width: int) -> Image.Image:
    """All colours, from the lowest to the highest value, ``width`` x 2 pixels.

    They are transparent: the upper row shows them over light gray, the lower one over dark gray.
    """
    gray = Image.fromarray(np.full((2, width), [[200], [60]], np.uint8))
    ramp = np.linspace(scale.low, scale.high, width, dtype=np.float32)
    return overlay(gray, np.tile(ramp, (2, 1)), ColourScale(scale.low, scale.high, threshold=None))


def line_meanings(threshold: float | None, masks: bool) -> list[tuple[tuple[int, int, int], str]]:
    """The colours of the lines on overlays, and what they mean.

    Args:
        threshold: of the contours; None where there are none.
        masks: whether overlays have the outlines of masks.
    """
    lines = []
    if threshold is not None:
        lines.append((CONTOUR, f"contour: the anomaly map is above {threshold:.4g}"))
    if masks:
        lines.append((MASK, "outline of the mask: what the data set calls anomalous"))
    return lines


def legend(scale: ColourScale, masks: bool) -> Image.Image:
    """What the colours and lines of the overlays mean: a bar of colours with their values.

    Args:
        scale: colours and threshold; the threshold is marked on the bar.
        masks: whether overlays have the outlines of masks.
    """
    width, margin, top, bar, row = 640, 20, 30, 32, 22
    lines = line_meanings(scale.threshold, masks)
    picture = Image.new("RGB", (width, top + bar + row * (1 + len(lines)) + 12), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)

    long = width - 2 * margin
    colours = colour_bar(scale, long).resize((long, bar), Image.Resampling.NEAREST)
    picture.paste(colours, (margin, top))
    bottom = top + bar
    draw.text((margin, bottom + 4), f"{scale.low:.4g}", "black", font)
    draw.text((width - margin, bottom + 4), f"{scale.high:.4g}", "black", font, anchor="ra")
    if scale.threshold is not None:
        x = margin + round(float(scale.share(np.float32(scale.threshold))) * (long - 1))
        draw.line((x, top - 4, x, bottom + 3), BORDER, 5)
        draw.line((x, top - 3, x, bottom + 2), CONTOUR, 1)
        label = f"pixel threshold {scale.threshold:.4g}"
        half = round(draw.textlength(label, font) / 2)
        center = min(max(x, margin + half), width - margin - half)
        draw.text((center, top - 8), label, "black", font, anchor="ms")
    for index, (colour, text) in enumerate(lines):
        y = bottom + row * (index + 1) + 12
        draw.line((margin, y, margin + 30, y), BORDER, 5)
        draw.line((margin, y, margin + 30, y), colour, 3)
        draw.text((margin + 40, y), text, "black", font, anchor="lm")
    return picture
