"""Small sources for the builders' tests: drawn by hand, so that every right answer is known."""

import io
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import Image, List, load_dataset

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Whoever imports it keeps what `datasets` prepares to the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    """The pixels as a file; `mode` converts them first."""
    file, image = io.BytesIO(), PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind)
    return file.getvalue()


def disc(radius: float, side: int = 16) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return ((np.hypot(x, y) <= radius) * 255).astype(np.uint8)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, grey // 2, 255 - grey], -1)


def slices(num_patients: int = 3) -> dict[str, bytes]:
    """Three slices per patient as the slices archive has them; the third has four empty masks."""
    files = {}
    for patient in range(1, num_patients + 1):
        folder = f"LIDC-IDRI-slices/LIDC-IDRI-{patient:04d}/nodule-0"
        for k in range(3):
            files[f"{folder}/images/slice-{k}.png"] = encode(np.full((16, 16), 10 * patient + k, np.uint8))
            for i in range(4):
                files[f"{folder}/mask-{i}/slice-{k}.png"] = encode(disc((4 - i) if k < 2 else -1))
    return files


def cvc(frames=(1, 2, 30, 110), kind: str = "png") -> dict[str, bytes]:
    """Frames of sequences 1, 1, 2 and 6 in one of the archive's layouts, with RGB masks."""
    files, folder = {}, f"CVC-ClinicDB/{kind.upper()}"
    coder = {"png": "PNG", "tif": "TIFF"}[kind]
    for n in frames:
        files[f"{folder}/Original/{n}.{kind}"] = encode(rgb(disc(n % 7)), coder)
        files[f"{folder}/Ground Truth/{n}.{kind}"] = encode(np.stack([disc(n % 5 + 1)] * 3, -1), coder)
    return files


def isic(numbers=range(6), part: str = "Training", height: int = 20, width: int = 40) -> dict[str, bytes]:
    """Photographs of 40 x 20 pixels, each with a mask of 12 x 20."""
    files, mask = {}, np.zeros((height, width), np.uint8)
    mask[4:16, 10:30] = 255
    for n in numbers:
        photo = np.full((height, width, 3), (200, 100, 40 + n), np.uint8)
        files[f"ISIC2018_Task1-2_{part}_Input/ISIC_{n:07d}.jpg"] = encode(photo, "JPEG")
        files[f"ISIC2018_Task1_{part}_GroundTruth/ISIC_{n:07d}_segmentation.png"] = encode(mask)
    return files


def one_of_each(tmp_path: Path) -> dict[str, list[str]]:
    """The arguments of each builder for a small source of its own."""
    own = {f"own/{kind}/{n}.png": encode(disc(n)) for kind in ("images", "masks-1", "masks-2") for n in range(1, 6)}
    sources = {"lidc_idri": slices(4), "cvc_clinicdb": cvc(), "isic2018": isic(), "folder": own}
    arguments = {name: [str(write_zip(tmp_path / f"{name}.zip", files))] for name, files in sources.items()}
    arguments["folder"] += ["--fractions", ".6", ".2", ".2"]
    return {**arguments, "phantom": ["--num-rows", "8", "--size", "32"]}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def rows_of(out: Path, decode: bool = True) -> dict[str, dict]:
    """A built folder's rows by `image_id`, each with its `split`; without `decode`, pictures as the files' bytes."""
    loaded = load_dataset(str(out), cache_dir=f"{out}-cache")
    if not decode:
        loaded = loaded.cast_column("image", Image(decode=False)).cast_column("masks", List(Image(decode=False)))
    return {row["image_id"]: {**row, "split": split} for split in loaded for row in loaded[split]}


def nothing_left(tmp_path: Path) -> bool:
    """Whether a failed build of `tmp_path / "out"` left neither that nor a part of it."""
    return not [path.name for path in tmp_path.iterdir() if path.name.startswith((".partial-", "out"))]
