"""Masks as people save them: what counts as anomalous, what is ignored, logged or refused."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import texture
from PIL import Image, ImageDraw, ImageFilter

from crn.errors import UserError
from datasets.masks import read_masks
from datasets.reader import read_images
from datasets.samples import ANOMALOUS, TEST, Sample

SHAPE = (40, 60)
DEFECT = np.zeros(SHAPE, bool)
DEFECT[10:20, 30:45] = True


def gray(normal: int, anomalous: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(DEFECT, anomalous, normal).astype(dtype))


def colour(normal: tuple, anomalous: tuple) -> Image.Image:
    return Image.fromarray(np.where(DEFECT[..., None], anomalous, normal).astype(np.uint8))


def read(folder: Path, *images: Image.Image, **how) -> tuple:
    """Where the masks are anomalous, and what they ignore."""
    samples = []
    for index, image in enumerate(images):
        path = folder / f"{index}_mask.png"
        image.save(path, **how)
        samples.append(Sample(str(index), (folder / f"{index}.png",), TEST, ANOMALOUS, path))
    return read_masks(samples, [SHAPE] * len(images), [None] * len(images))


PALETTE = gray(0, 1).convert("P")
PALETTE.putpalette([0, 0, 0, 255, 0, 0])


def numbered(*numbers: int, dtype: type = np.uint8) -> Image.Image:
    """The defect in columns of these numbers."""
    array = np.zeros(SHAPE, dtype)
    columns = np.array_split(np.arange(30, 45), len(numbers))
    for number, mine in zip(numbers, columns, strict=True):
        array[10:20, mine] = number
    return Image.fromarray(array)


MANY_COLOURS = np.zeros((*SHAPE, 4), np.uint8)
MANY_COLOURS[DEFECT] = (255, 0, 0, 255)
MANY_COLOURS[15:20, 30:45] = (0, 90, 250, 255)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        *((gray(0, white), "") for white in (255, 1)),
        *((image, "") for image in (gray(0, 255).convert("1"), PALETTE)),
        *((gray(0, 300, np.uint16), ""), (gray(0, 70_000, np.int32), "")),
        (colour((0, 0, 0), (0, 0, 200)), ""),
        (colour((0, 0, 0, 255), (255, 255, 255, 255)), ""),
        (gray(16, 235), "brighter of two values"),
        *((numbered(*n), "all but 0") for n in ((2, 3), (35, 40, 41), (5, 200), (127, 255))),
        *((numbered(*n), "all but 0") for n in ((51, 102, 153, 204), range(250, 256))),
        (numbered(24_001, 26_000, 65_000, dtype=np.uint16), "all but 0"),
        (colour((255, 255, 255, 0), (0, 0, 0, 255)), "opaque"),
        (colour((0, 0, 0, 0), (255, 0, 0, 200)), "opaque"),
        (Image.fromarray(MANY_COLOURS), "all but 0"),
    ],
)
def test_values_are_interpreted(tmp_path: Path, caplog, image: Image.Image, words: str) -> None:
    """A line names the first of the masks that are not simply zero and not zero."""
    masks, ignored = read(tmp_path, image, image, format="TIFF" if image.mode == "I" else "PNG")
    assert masks[1].dtype == bool
    np.testing.assert_array_equal(masks[1], DEFECT)
    assert list(ignored) == [None, None]
    assert len(caplog.messages) == bool(words)
    for message in caplog.messages:
        assert message.startswith(f"2 masks such as {tmp_path / '0_mask.png'}: ")
        assert words in message


def test_thin_cracks_have_numbers_too(tmp_path: Path, caplog) -> None:
    image = Image.new("L", SHAPE[::-1])
    for number, end in ((1, (59, 30)), (2, (40, 39)), (3, (10, 39))):
        ImageDraw.Draw(image).line((5, 3, *end), fill=number)
    np.testing.assert_array_equal(read(tmp_path, image)[0][0], np.array(image) > 0)
    assert "all but 0" in caplog.text


def edged(number: int, edge: int, dtype: type = np.uint8) -> Image.Image:
    """The defect with an edge of one pixel around it."""
    array = np.zeros(SHAPE, dtype)
    array[9:21, 29:46] = edge
    array[DEFECT] = number
    array[10:20, 44] = 1  # another class
    return Image.fromarray(array)


VOC = edged(2, 255)
VOC.putpalette([*(0, 0, 0), *(128, 0, 0), *(0, 128, 0)] + [9] * 252 * 3 + [224, 224, 192])
TINY = Image.new("L", SHAPE[::-1])
ImageDraw.Draw(TINY).rectangle((3, 3, 6, 6), fill=1, outline=255)


@pytest.mark.parametrize(
    ("image", "anomalous"),
    [
        (edged(40, 255), DEFECT),
        (edged(2, 65_535, np.uint16), DEFECT),
        (VOC, DEFECT),
        (TINY, np.array(TINY) == 1),
    ],
)
def test_edges_are_left_out_and_named(
    tmp_path: Path, caplog, image: Image.Image, anomalous: np.ndarray
) -> None:
    masks, ignored = read(tmp_path, image, gray(0, 255))
    numbers = np.array(image).astype(int)
    np.testing.assert_array_equal(masks[0], anomalous)
    np.testing.assert_array_equal(ignored[0], numbers == numbers.max())
    np.testing.assert_array_equal(masks[1], DEFECT)
    assert ignored[1] is None
    (message,) = caplog.messages
    assert message.startswith(f"1 mask such as {tmp_path / '0_mask.png'}: ")
    assert "edge to ignore" in message


def blurred(radius: float) -> Image.Image:
    return gray(0, 255).filter(ImageFilter.GaussianBlur(radius))


def antialiased(factor: int, method: Image.Resampling) -> Image.Image:
    """Drawn larger by a third of a pixel that does not fit, and made smaller."""
    large = Image.new("L", (SHAPE[1] * factor, SHAPE[0] * factor))
    place = [side * factor for side in (30, 10, 45, 20)]
    ImageDraw.Draw(large).rectangle((place[0] + 1, place[1] + 1, place[2], place[3]), fill=255)
    return large.resize(SHAPE[::-1], method)


def through_jpeg(white: int, quality: int) -> Image.Image:
    file = io.BytesIO()
    gray(0, white).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("L")


@pytest.mark.parametrize(
    "image",
    [
        *(blurred(0.5), blurred(2)),
        Image.fromarray(np.array(blurred(1)).astype(np.uint16) * 257),
        antialiased(2, Image.Resampling.BOX),
        antialiased(3, Image.Resampling.LANCZOS),
        *(through_jpeg(255, 20), through_jpeg(255, 95), through_jpeg(128, 90)),
    ],
)
def test_gray_edges_end_in_the_middle(tmp_path: Path, caplog, image) -> None:
    masks, ignored = read(tmp_path, image)
    # A corner or the side of a rectangle of 150 pixels.
    assert (masks[0] != DEFECT).sum() <= 25
    assert list(ignored) == [None]
    (message,) = caplog.messages
    assert "shades of gray" in message


def test_pictures_are_cut_at_half(tmp_path: Path, caplog) -> None:
    image = texture(0, *SHAPE)
    masks, _ = read(tmp_path, Image.fromarray(image))
    np.testing.assert_array_equal(masks[0], image > image.max() / 2)
    assert "shades of gray" in caplog.text


def test_inverted_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0_mask\.png: white for .*2 of 3 masks; .*: invert them"):
        read(tmp_path, gray(255, 0), gray(255, 0), gray(0, 255))
    masks, _ = read(tmp_path, gray(255, 0), gray(0, 255), gray(0, 255))
    np.testing.assert_array_equal(masks[0], ~DEFECT)


@pytest.mark.parametrize(
    ("image", "is_anomalous", "words"),
    [
        (gray(0, 0), False, "no pixel is anomalous"),
        (gray(1, 1), True, "all pixels are anomalous"),
        (gray(300, 300, np.uint16), True, "all pixels are anomalous"),
    ],
)
def test_nothing_or_everything_is_named(
    tmp_path: Path, caplog, image: Image.Image, is_anomalous: bool, words: str
) -> None:
    masks, _ = read(tmp_path, gray(0, 255), image)
    assert np.unique(masks[1]).tolist() == [is_anomalous]
    assert caplog.messages == [f"1 mask such as {tmp_path / '1_mask.png'}: {words}"]


def test_masks_that_are_all_empty_leave_no_pixel_metrics(tmp_path: Path, caplog) -> None:
    read(tmp_path, gray(0, 0), gray(0, 0))
    (message,) = caplog.messages
    assert message.startswith(f"2 masks such as {tmp_path / '0_mask.png'}: no pixel is anomalous,")
    assert message.endswith("so there are no pixel metrics")


# --- photographs that EXIF data turn ---

# By their orientation, how a stored array is turned to be upright, after the EXIF standard.
TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: a[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: np.rot90,
}
EITHER_WAY = "fit both ways; they are taken to be upright"


def tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def read_with_photograph(
    folder: Path, stored: np.ndarray, orientation: int, mask: np.ndarray, ending="jpg", **how
) -> np.ndarray:
    """The mask of a photograph that is stored so."""
    image, path = folder / f"photograph.{ending}", folder / "mask.png"
    Image.fromarray(stored).save(image, exif=tag(orientation))
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, **how)
    samples = [Sample("0", (image,), TEST, ANOMALOUS, path)]
    images = read_images(samples, 8)
    masks, _ = read_masks(samples, images.sizes, images.orientations)
    assert masks[0].shape == images.sizes[0]
    return masks[0]


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_masks_drawn_on_the_stored_pixels(
    tmp_path: Path, caplog, ending: str, orientation: int
) -> None:
    """They are turned if they do not fit otherwise; else a line says that they are not."""
    mask = read_with_photograph(tmp_path, texture(1, *SHAPE, 3), orientation, DEFECT, ending)
    if orientation >= 5:
        np.testing.assert_array_equal(mask, TURNED[orientation](DEFECT))
        assert caplog.messages == []
    else:
        np.testing.assert_array_equal(mask, DEFECT)
        (message,) = caplog.messages
        assert message.startswith(f"1 mask such as {tmp_path / 'mask.png'}: ")
        assert EITHER_WAY in message


@pytest.mark.parametrize("orientation", TURNED)
def test_masks_with_the_tag_are_turned_with_their_photographs(
    tmp_path: Path, caplog, orientation: int
) -> None:
    how = {"exif": tag(orientation)}
    mask = read_with_photograph(tmp_path, texture(1, *SHAPE, 3), orientation, DEFECT, **how)
    np.testing.assert_array_equal(mask, TURNED[orientation](DEFECT))
    assert caplog.messages == []


@pytest.mark.parametrize("orientation", [5, 6])
def test_masks_drawn_on_upright_photographs(tmp_path: Path, caplog, orientation: int) -> None:
    mask = read_with_photograph(tmp_path, texture(1, *SHAPE[::-1], 3), orientation, DEFECT)
    np.testing.assert_array_equal(mask, DEFECT)
    assert caplog.messages == []


@pytest.mark.parametrize(("how", "is_said"), [({}, True), ({"exif": tag(1)}, False)])
def test_masks_of_square_photographs_fit_both_ways(
    tmp_path: Path, caplog, how: dict, is_said: bool
) -> None:
    square = np.zeros((60, 60), bool)
    square[:9, :20] = True
    mask = read_with_photograph(tmp_path, texture(1, 60, 60, 3), 6, square, **how)
    np.testing.assert_array_equal(mask, square)
    assert (EITHER_WAY in caplog.text) == is_said


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_of_another_size_are_refused(tmp_path: Path, orientation: int) -> None:
    with pytest.raises(UserError, match=r"mask\.png: has 59x40 pixels, but .*photograph\.jpg has"):
        read_with_photograph(tmp_path, texture(1, *SHAPE, 3), orientation, DEFECT[:, 1:])


# --- what is kept ---


def test_samples_without_masks_have_none() -> None:
    for masks in read_masks([Sample("a", (Path("a.png"),), TEST, ANOMALOUS)], [SHAPE], [None]):
        assert list(masks) == [None]


def test_masks_take_little_memory(tmp_path: Path) -> None:
    sample = Sample("a", (Path("a.png"),), TEST, ANOMALOUS, tmp_path / "large.png")
    large = np.zeros((2000, 3000), np.uint8)
    large[500:900, 500:900] = 255
    Image.fromarray(large).save(sample.mask)
    masks, _ = read_masks([sample], [large.shape], [None])
    np.testing.assert_array_equal(masks[0], large > 0)
    assert len(masks._files[0]) < large.size / 500
