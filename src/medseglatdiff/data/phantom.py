"""Deterministic multi-rater phantoms: lesions on textured background, and simulated nodules in a real chest CT patch.

Each row depends on `(seed, index)` alone, so the first ten of a thousand rows are the same as ten rows. Raters
disagree as readers do: some draw generously and some tightly, their lines wobble, and faint lesions are overlooked.
"""

from collections.abc import Iterator

import numpy as np
import PIL.Image

PHOTOS = {  # colours of the ground and of the lesion, sRGB
    "skin": ((0.88, 0.70, 0.60), (0.38, 0.23, 0.17)),
    "polyp": ((0.62, 0.28, 0.22), (0.80, 0.47, 0.38)),
}
FAINT = 0.2  # contrast, as a share of the full range, below which raters sometimes overlook a lesion


def phantom_rows(
    num_rows: int, size: int = 128, num_raters: int = 4, seed: int = 0, num_classes: int = 1
) -> Iterator[dict]:
    """Rows by the column contract: one lesion each, from four pixels to a third of the image (log-uniform).

    With several classes the lesion has nested tissues, like a tumour's rim, core and necrosis: class 1 is outermost.
    They are equally wide and alternately darker and brighter; every rater draws every border.

    Args:
        num_rows (`int`): number of rows.
        size (`int`, *optional*, defaults to 128): side of the square image in pixels, at least 16.
        num_raters (`int`, *optional*, defaults to 4): masks per image, at least 1; some may be empty, never all.
        seed (`int`, *optional*, defaults to 0): another seed gives other phantoms.
        num_classes (`int`, *optional*, defaults to 1): tissues of a lesion, 1 to 3.

    Returns:
        an iterator of `{"image", "masks", "image_id", "group_id"}`: the image of mode "L", the masks 0/255, or labels
        from 0 to `num_classes` if there are several classes.
    """
    _check(num_rows, size, num_raters)
    if num_classes not in (1, 2, 3):
        raise ValueError(f"`num_classes` must be 1, 2 or 3, but was {num_classes}.")
    for index in range(num_rows):
        rng = np.random.default_rng([seed, index])
        least = 4 * num_classes**2  # pixels
        radius = np.sqrt(np.exp(rng.uniform(np.log(least), np.log(size**2 / 3))) / np.pi)
        level, angle = _blob(rng, size, rng.uniform(radius, size - radius, 2), radius, roughness=0.12)  # [H, W] twice
        contrast = rng.uniform(0.1, 0.45)
        pixels = 0.35 + _texture(rng, size)  # [H, W]
        if rng.random() < 0.5:
            pixels += _distractor(rng, size)  # [H, W]
        softness = rng.uniform(0.4, 1.5)
        pixels += contrast * _soft_step(level, softness)  # [H, W]
        inner = [level - radius * number / num_classes for number in range(1, num_classes)]  # [H, W] each
        for number, border in enumerate(inner):
            pixels += (-1) ** (number + 1) * 0.8 * contrast * _soft_step(border, softness)  # [H, W]
        pixels += rng.normal(0, rng.uniform(0.01, 0.04), pixels.shape)  # [H, W]
        masks = _raters(rng, level, angle, radius, num_raters, contrast)
        if num_classes > 1:
            drawn = [_raters(rng, border, angle, radius, num_raters, contrast=1) for border in inner]
            masks = [_nested(borders) for borders in zip(masks, *drawn, strict=True)]
        yield _row(pixels.clip(0, 1), masks, f"phantom-{seed}-{index:05d}")


def chest_phantom_rows(num_rows: int, size: int = 128, num_raters: int = 4, seed: int = 0) -> Iterator[dict]:
    """Simulated nodules, solid or ground-glass, near the middle of views of the chest CT patch that pydicom ships.

    The patch (128 x 128, 0.66 mm pixels) is continued beyond its border by reflection, turned and flipped at random.
    Nodules are 3 to 25 mm wide. Like the crops of LIDC-IDRI, each view is stretched from its minimum to its
    maximum. Arguments and rows are those of `phantom_rows`.

    Raises:
        ImportError: without pydicom.
    """
    _check(num_rows, size, num_raters)
    patch = np.pad(chest_patch(), size, mode="reflect")  # [128 + 2 * size] squared, Hounsfield units
    for index in range(num_rows):
        rng = np.random.default_rng([seed, index])
        view, centre = _lung_view(rng, patch, size)  # [H, W], (y, x)
        radius = np.exp(rng.uniform(np.log(3), np.log(25))) / 2 / 0.66
        level, angle = _blob(rng, size, centre, radius, roughness=0.14)  # [H, W] twice
        density = rng.uniform(-60, 60) if rng.random() < 0.7 else rng.uniform(-650, -400)  # solid, ground-glass
        inside = _soft_step(level, rng.uniform(0.6, 1.2))  # [H, W]
        nodule = np.maximum(view, density + 60 * _texture(rng, size))  # vessels show through ground glass
        view = view + inside * (nodule - view)  # [H, W]
        masks = _raters(rng, level, angle, radius, num_raters, contrast=(density + 850) / 2000)
        yield _row((view - view.min()) / (view.max() - view.min()), masks, f"chest-{seed}-{index:05d}")


def photo_phantom_rows(
    num_rows: int, kind: str, size: int = 256, num_raters: int = 1, seed: int = 0
) -> Iterator[dict]:
    """Drawn photographs, RGB: `"skin"`, a mole among hairs, or `"polyp"`, a knob in the light of an endoscope.

    `kind` is a key of `PHOTOS`. The other arguments and rows are those of `phantom_rows`.
    """
    _check(num_rows, size, num_raters)
    if kind not in PHOTOS:
        raise ValueError(f"`kind` must be one of {', '.join(PHOTOS)}, but was {kind!r}.")
    stream = list(PHOTOS).index(kind)
    ground, lesion = (np.array(colour) for colour in PHOTOS[kind])  # [3] each
    for index in range(num_rows):
        rng = np.random.default_rng([seed, index, stream])
        radius = rng.uniform(0.12, 0.24) * size
        level, angle = _blob(rng, size, rng.uniform(0.35, 0.65, 2) * size, radius, roughness=0.05)  # [H, W] twice
        share = _soft_step(level, rng.uniform(1.5, 3)) * (0.9 + _texture(rng, size))  # [H, W]
        light = 1 + _texture(rng, size)  # [H, W]
        if kind == "skin":
            for _ in range(rng.integers(2, 6)):
                light -= 0.8 * np.abs(_distractor(rng, size))  # hairs and shadows
        else:
            y, x = (np.mgrid[:size, :size] / size - rng.uniform(0.4, 0.6, (2, 1, 1))) * 2  # [2, H, W]
            light *= 1.1 - 0.55 * (x**2 + y**2)  # the endoscope's light falls off
            knob = np.exp(-(((level - 0.6 * radius) / (0.5 * radius)) ** 2))  # [H, W]
            light -= 0.2 * knob * np.sin(angle)  # lit from above
        pixels = (ground + share[..., None] * (lesion - ground)) * light[..., None]  # [H, W, 3]
        pixels += rng.normal(0, 0.01, pixels.shape)  # [H, W, 3]
        masks = _raters(rng, level, angle, radius / 4, num_raters, contrast=1)
        yield _row(pixels.clip(0, 1), masks, f"{kind}-{seed}-{index:05d}")


def chest_patch() -> np.ndarray:
    """The 128 x 128 chest CT patch that pydicom ships for its tests, float64 in Hounsfield units."""
    try:
        import pydicom.data
    except ImportError as error:
        raise ImportError('Chest phantoms need `pip install "medseglatdiff[dicom]"`.') from error
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    return dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept


def _check(num_rows: int, size: int, num_raters: int):
    for name, value, least in (("num_rows", num_rows, 0), ("size", size, 16), ("num_raters", num_raters, 1)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, but was {value}.")


def _lung_view(rng: np.random.Generator, patch: np.ndarray, size: int) -> tuple[np.ndarray, tuple[float, float]]:
    """A square view of the patch around a random place in the lung, turned and flipped; and where that place lies."""
    air = (patch < -700)[size:-size, size:-size]  # [128, 128]
    wide = [np.roll(air, shift, axis) for axis in (0, 1) for shift in (-6, 0, 6)]  # away from the chest wall
    y, x = rng.choice(np.argwhere(np.logical_and.reduce(wide)))
    top, left = (np.array([y, x]) + size - size // 2 + rng.integers(-size // 16, size // 16 + 1, 2)).tolist()
    place = np.zeros_like(patch, dtype=bool)
    place[y + size, x + size] = True
    turns, flip = int(rng.integers(4)), slice(None, None, -1 if rng.random() < 0.5 else 1)
    view, place = (np.rot90(a[top : top + size, left : left + size], turns)[:, flip] for a in (patch, place))
    return view.copy(), tuple(np.argwhere(place)[0])


def _blob(rng: np.random.Generator, size: int, centre, radius: float, roughness: float) -> tuple[np.ndarray, ...]:
    """How far inside the border each pixel lies, in pixels, and its angle around the centre, in radians; `[H, W]`."""
    y, x = np.mgrid[:size, :size] - np.reshape(centre, (2, 1, 1))  # [2, H, W]
    angle = np.arctan2(y, x)
    border = radius * (1 + rng.uniform(0, 0.3) * np.cos(2 * (angle - rng.uniform(0, np.pi))))
    border *= 1 + roughness * _wobble(rng, angle, harmonics=6)
    return border - np.hypot(y, x), angle


def _wobble(rng: np.random.Generator, angle: np.ndarray, harmonics: int) -> np.ndarray:
    """A smooth random function of the angle with unit variance, falling off with frequency."""
    amplitudes = rng.normal(size=(2, harmonics)) / np.arange(2, harmonics + 2)
    amplitudes *= np.sqrt(2 / (amplitudes**2).sum())
    waves = [
        a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(amplitudes.T, start=2)
    ]  # harmonics * [H, W]
    return np.sum(waves, axis=0)


def _raters(
    rng: np.random.Generator, level: np.ndarray, angle: np.ndarray, radius: float, num_raters: int, contrast: float
) -> list[np.ndarray]:
    """Each rater's mask, bool `[H, W]`: the border moved out or in and wobbling; empty where the lesion was missed."""
    marks = rng.random(num_raters) < (0.65 if contrast < FAINT else 1)
    if rng.random() < 0.05 or not marks.any():
        marks = np.arange(num_raters) == rng.integers(num_raters)  # one rater alone
    spread = 0.4 + 0.12 * radius  # pixels
    masks = []
    for mark in marks:
        moved = level + spread * (rng.normal() + 0.7 * _wobble(rng, angle, harmonics=4))  # [H, W]
        masks.append(mark & ((moved > 0) | (moved == moved.max())))  # one pixel at least
    return masks


def _nested(masks: tuple[np.ndarray, ...]) -> np.ndarray:
    """One rater's masks, bool `(H, W)` from the outermost on, as labels: each class lies within the one before."""
    return np.logical_and.accumulate(masks).sum(axis=0, dtype=np.uint8)  # [H, W]


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth random texture around zero, `[H, W]`: coarse, middle and fine waves."""
    total = np.zeros((size, size), np.float32)
    for cells, amplitude in ((3, 0.06), (8, 0.04), (20, 0.02)):
        grid = PIL.Image.fromarray(rng.normal(0, amplitude, (cells, cells)).astype(np.float32))
        total += np.asarray(grid.resize((size, size), PIL.Image.Resampling.BICUBIC))
    return total


def _distractor(rng: np.random.Generator, size: int) -> np.ndarray:
    """What a rater never marks: a bright thin line like a vessel, or a dark blob; `[H, W]`."""
    if rng.random() < 0.5:
        level, _ = _blob(rng, size, rng.uniform(0, size, 2), rng.uniform(0.03, 0.12) * size, roughness=0.1)
        return -rng.uniform(0.15, 0.3) * _soft_step(level, 1.0)
    y, x = np.mgrid[:size, :size] - rng.uniform(0.2, 0.8, (2, 1, 1)) * size  # [2, H, W]
    direction = rng.uniform(0, np.pi)
    along, across = x * np.cos(direction) + y * np.sin(direction), y * np.cos(direction) - x * np.sin(direction)
    bend = rng.normal(0, 0.5) * along**2 / size
    return rng.uniform(0.15, 0.35) * _soft_step(rng.uniform(0.6, 1.8) - np.abs(across - bend), 0.4)


def _soft_step(level: np.ndarray, softness: float) -> np.ndarray:
    """0 far outside, 1 far inside, with an edge about `softness` pixels wide."""
    return 0.5 * (1 + np.tanh(level / (2 * softness)))


def _row(pixels: np.ndarray, masks: list[np.ndarray], name: str) -> dict:
    return {
        "image": PIL.Image.fromarray((pixels * 255).round().astype(np.uint8)),
        "masks": [PIL.Image.fromarray(mask.astype(np.uint8) * 255 if mask.dtype == bool else mask) for mask in masks],
        "image_id": name,
        "group_id": name,
    }
