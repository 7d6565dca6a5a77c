"""Small sources for the builders' tests: drawn by hand, so that every right answer is known."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MEDSEGLATDIFF_DATA", ROOT.parent / "shared" / "data"))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def disc(radius: float, side: int = 16) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return ((np.hypot(x, y) <= radius) * 255).astype(np.uint8)


def slices(num_patients: int = 3) -> dict[str, bytes]:
    """Three slices per patient as the slices archive has them; the third has four empty masks."""
    files = {}
    for patient in range(1, num_patients + 1):
        folder = f"LIDC-IDRI-slices/LIDC-IDRI-{patient:04d}/nodule-0"
        for k in range(3):
            files[f"{folder}/images/slice-{k}.png"] = png(np.full((16, 16), 10 * patient + k, np.uint8))
            for i in range(4):
                files[f"{folder}/mask-{i}/slice-{k}.png"] = png(disc((4 - i) if k < 2 else -1))
    return files


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
