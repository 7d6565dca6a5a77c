"""One picture of a segmentation: image, hypotheses, consensus, confidence, uncertainty."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

PANEL = 384  # longest side of a panel's picture, in pixels
COLUMN = PANEL + 88  # with room for the ticks of a colour bar
MARGIN = 24
LINE = 2  # width of outlines, in pixels
TILES = 25  # hypotheses shown one by one, at most

# Okabe and Ito's colours, safe for colour-blind readers; those visible on dark tissue first
COLOURS = [(230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115), (204, 121, 167), (213, 94, 0), (0, 114, 178)]
INK, FAINT_INK = (24, 24, 28), (96, 96, 104)

# Matplotlib's perceptually uniform maps (CC0), sampled at equal distances
VIRIDIS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c "
    "1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725"
)
MAGMA = "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf"


def draw_overview(
    image: np.ndarray,
    masks: np.ndarray,
    confidence: np.ndarray,
    uncertainty: np.ndarray,
    consensus: np.ndarray,
    threshold: float,
    title: str,
    subtitle: str,
) -> PIL.Image.Image:
    """Draws one image's segmentation; each panel has the image's aspect ratio and a longest side of 384 pixels.

    If the hypotheses cover a small part of the image, all panels but the first show only this part, framed in the
    first.

    Args:
        image (`np.ndarray`, float `(H, W, C)`): in [0, 1], with 1 or 3 channels, as from `load_image`.
        masks (`np.ndarray`, bool or uint8 `(M, H, W)`): hypotheses; label maps with several classes.
        confidence (`np.ndarray`, float `(H, W)` or `(K, H, W)`): in [0, 1]; a panel per class.
        uncertainty (`np.ndarray`, float, same shape): in bits; the highest over classes is shown.
        consensus (`np.ndarray`, bool or uint8 `(H, W)`): labels with several classes.
        threshold (`float`): least confidence of the consensus, for the caption.
        title (`str`), subtitle (`str`): the lines above the panels.
    """
    confidence, uncertainty = (np.reshape(a, (-1, *a.shape[-2:])) for a in (confidence, uncertainty))  # [K, H, W]
    num_classes, height, width = confidence.shape
    size = tuple(max(1, round(PANEL * side / max(width, height))) for side in (width, height))
    window = window_around(np.any(masks, axis=0))
    whole, scan = resize_image(image, size), resize_image(image[window], size)  # [h, w, 3] each
    masks, consensus = masks[:, *window], consensus[window]  # [M, H', W'], [H', W']
    confidence, uncertainty = confidence[:, *window], uncertainty[:, *window]  # [K, H', W'] each
    classes = range(1, num_classes + 1)
    # 1. outlines over the image: a colour per hypothesis, or per class if there are several
    if num_classes == 1:
        hypotheses = [(mask, colour_of(index)) for index, mask in enumerate(masks)]
    else:
        hypotheses = [(mask == k, colour_of(k - 1)) for mask in masks for k in classes]
    agreed = [(consensus == k, colour_of(k - 1)) for k in classes]
    share, what = f"{threshold:.0%}", f"{width} x {height} pixels"
    if masks.shape[1:] != (height, width):
        whole, what = _framed(whole, window, (height, width)), f"{what}; the frame is what the others show"
    panels = [
        _panel("Image", what, whole),
        _panel(f"{len(masks)} hypotheses", "outlined over the image", _outlined(scan, hypotheses)),
        _panel("Consensus", f"where confidence is at least {share}", _outlined(scan, agreed)),
    ]
    # 2. maps with their colour bars
    for k, values in zip(classes, confidence, strict=True):
        picture = resize_map(colour_map(values, VIRIDIS), size)
        name, swatch = ("Confidence", None) if num_classes == 1 else (f"Confidence, class {k}", colour_of(k - 1))
        caption = "from the share of the hypotheses that hold a pixel"
        panels.append(_panel(name, caption, picture, VIRIDIS, ("0 %", "50 %", "100 %"), swatch))
    picture = resize_map(colour_map(uncertainty.max(axis=0), MAGMA), size)
    caption = "0: sure, 1 bit: undecided"
    panels.append(_panel("Uncertainty", caption, picture, MAGMA, ("0", "0.5", "1 bit")))
    # 3. hypotheses one by one
    count = min(len(masks), TILES)
    caption = "one by one" if count == len(masks) else f"the first {count} of {len(masks)}"
    picture = _gallery(image[window], masks[:count], num_classes, size)
    panels.append(_panel("Hypotheses", caption, picture))
    return _page(panels, title, subtitle)


def colour_of(index: int) -> tuple[int, int, int]:
    """The colour of hypothesis or class number `index`, from 0; colours repeat after seven."""
    return COLOURS[index % len(COLOURS)]


def colour_map(values: np.ndarray, anchors: str) -> np.ndarray:
    """Colours of values in [0, 1], uint8 `(..., 3)`, interpolated between equidistant anchors."""
    table = np.array([list(bytes.fromhex(anchor)) for anchor in anchors.split()])  # [anchors, 3]
    positions = np.linspace(0, 1, len(table))
    return np.stack([np.interp(values, positions, column) for column in table.T], axis=-1).round().astype(np.uint8)


def outline(mask: np.ndarray, width: int = LINE) -> np.ndarray:
    """The pixels of a mask, bool `(H, W)`, that lie within `width` steps of its outside or of the picture's border."""
    inside = mask
    for _ in range(width):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image, float `(H, W, C)` in [0, 1], as uint8 `(height, width, 3)`; `size` is width and height."""
    pixels = (np.broadcast_to(image, (*image.shape[:2], 3)) * 255).round().astype(np.uint8)
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC))


def resize_map(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels at the panel's size: squares if enlarged, averaged if shrunk."""
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BOX))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at the panel's size; even a single pixel of a large image stays visible."""
    return resize_map(mask.astype(np.uint8) * 255, size) > (127 if size[0] >= mask.shape[1] else 0)


def _outlined(scan: np.ndarray, masks: Sequence[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    picture = scan.copy()  # [h, w, 3]
    for mask, colour in masks:
        picture[outline(resize_mask(mask, scan.shape[1::-1]))] = colour
    return picture


def window_around(found: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around the pixels found, bool `(H, W)`, in the image's aspect ratio; all if none is."""
    if not found.any():
        return slice(None), slice(None)
    spans = [np.flatnonzero(found.any(axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0)]  # rows, columns: first, end
    sides = [(end - first) / side for (first, end), side in zip(spans, found.shape, strict=True)]
    share = min(1, max(2 * max(sides), 32 / min(found.shape)))  # at least 32 pixels
    lengths = [max(1, round(share * side)) for side in found.shape]
    top, left = (
        min(max(0, (first + end - length) // 2), side - length)
        for (first, end), length, side in zip(spans, lengths, found.shape, strict=True)
    )
    return slice(top, top + lengths[0]), slice(left, left + lengths[1])


def _framed(scan: np.ndarray, window: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
    """The scan with a frame around the window of an image of this shape, `(H, W)`."""
    picture = PIL.Image.fromarray(scan)
    scales = [shown / side for shown, side in zip(scan.shape[:2], shape, strict=True)]
    (top, bottom), (left, right) = (
        (part.start * scale, part.stop * scale - 1) for part, scale in zip(window, scales, strict=True)
    )
    ImageDraw.Draw(picture).rectangle([left, top, right, bottom], outline="white", width=LINE)
    return np.asarray(picture)


def _gallery(image: np.ndarray, masks: np.ndarray, num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """The hypotheses as numbered tiles, filled over the darkened image."""
    columns = int(np.ceil(np.sqrt(len(masks))))
    tile_size = max(1, size[0] // columns - 4), max(1, size[1] // columns - 4)
    dark = resize_image(image, tile_size) // 2  # [h / columns, w / columns, 3]
    sheet = PIL.Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for index, mask in enumerate(masks):
        tile = dark.copy()
        for k in range(1, num_classes + 1):
            tile[resize_mask(mask == k, tile_size)] = colour_of(index if num_classes == 1 else k - 1)
        corner = (index % columns * size[0] // columns, index // columns * size[1] // columns)
        sheet.paste(PIL.Image.fromarray(tile), corner)
        label = str(index + 1) if mask.any() else f"{index + 1} empty"
        draw.text((corner[0] + 5, corner[1] + 3), label, "white", ImageFont.load_default(14))
    return np.asarray(sheet)


def _panel(
    name: str, caption: str, picture: np.ndarray, anchors: str = "", ticks: tuple[str, ...] = (), swatch=None
) -> PIL.Image.Image:
    """A picture under its name and caption, with a colour bar for maps and a swatch for classes."""
    height, width = picture.shape[:2]
    top = 56
    panel = PIL.Image.new("RGB", (COLUMN, top + max(height, 96)), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((0, 0), name, INK, ImageFont.load_default(22))
    draw.text((0, 29), caption, FAINT_INK, ImageFont.load_default(16))
    if swatch:
        draw.rectangle([PANEL - 22, 3, PANEL - 4, 21], swatch)
    panel.paste(PIL.Image.fromarray(picture), (0, top))
    if anchors:
        length = max(height, 96)
        bar = colour_map(np.linspace(1, 0, length), anchors)  # [length, 3]
        panel.paste(PIL.Image.fromarray(bar[:, None].repeat(14, axis=1)), (width + 10, top))
        for position, tick in zip(np.linspace(length - 1, 0, len(ticks)), ticks, strict=True):
            draw.line([(width + 24, top + position), (width + 29, top + position)], INK)
            y = min(max(top + position, top + 8), top + length - 9)
            draw.text((width + 33, y), tick, INK, ImageFont.load_default(15), anchor="lm")
    return panel


def _page(panels: list[PIL.Image.Image], title: str, subtitle: str) -> PIL.Image.Image:
    """Panels in rows of three under the title."""
    top, row_height = 92, max(panel.height for panel in panels) + MARGIN
    rows = -(-len(panels) // 3)
    page = PIL.Image.new("RGB", (MARGIN + 3 * COLUMN, top + rows * row_height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 16), _plain(title), INK, ImageFont.load_default(30))
    draw.text((MARGIN, 56), _plain(subtitle), FAINT_INK, ImageFont.load_default(17))
    for index, panel in enumerate(panels):
        page.paste(panel, (MARGIN + index % 3 * COLUMN, top + index // 3 * row_height))
    return page


def _plain(text: str) -> str:
    """ASCII text, because Pillow's built-in font has few other letters."""
    return text.encode("ascii", "replace").decode()
