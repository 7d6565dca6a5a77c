"""From one case's file to its finished results: used by the command and on clusters."""

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..data.files import PREFIX, naming_full_disk, replace_folder
from ..data.images import load_image
from ..data.names import printable
from ..data.spacing import pixel_spacing
from ..overview import draw_overview
from .cases import Case
from .files import WRITTEN, mean_pairwise_dice, report, write_output
from .loading import load_pipeline
from .output import MedSegLatDiffPipelineOutput
from .pipeline import MedSegLatDiffPipeline
from .saved import sha256

MARK = "done.json"  # in the folder of a case whose results are whole


@dataclass(frozen=True)
class SegmentSettings:
    """Settings that determine the results, besides the image and the model."""

    num_masks: int | None = None
    num_inference_steps: int | None = None
    seed: int = 0
    formats: tuple[str, ...] = ("png",)
    region: tuple[float, ...] | None = None


@dataclass
class Outcome:
    """The outcome of a case: `text` for the terminal, or the `error` why it could not be segmented."""

    case: str
    text: str = ""
    skipped: bool = False
    error: str | None = None


class CaseSegmenter:
    """Segments cases one by one into folders below `out`. It can be pickled: each process loads the model itself.

    A case's folder appears only once everything in it is written, including the mark `done.json` with the settings and
    the SHA-256 of the source, by which finished cases are skipped.

    Args:
        model (`str`): a pipeline's folder or Hub id.
        out (`Path`): folder of the results.
        settings (`SegmentSettings`): the same for all cases.
        worker (`str`, *optional*, defaults to `"0"`): names this process among those that write to `out`.
        overwrite (`bool`, *optional*, defaults to `False`): recompute cases that were finished with other settings.
    """

    def __init__(self, model: str, out: Path, settings: SegmentSettings, worker: str = "0", overwrite: bool = False):
        self.model, self.out, self.settings, self.overwrite = model, Path(out), settings, overwrite
        self.work = self.out / f"{PREFIX}{worker}"  # unfinished results of this process
        self.pipeline: MedSegLatDiffPipeline | None = None
        self.identity: dict = {}

    def __getstate__(self) -> dict:
        return vars(self) | {"pipeline": None}

    def load(self) -> MedSegLatDiffPipeline:
        """Loads the model, once; `identity` is then everything that determines the results."""
        if self.pipeline is None:
            self.pipeline = load_pipeline(self.model)
            self.pipeline.set_progress_bar_config(disable=True)
            self.identity = {"model": Path(self.model).name, "weights": fingerprint(self.pipeline)}
            self.identity |= {name: value for name, value in asdict(self.settings).items()}
            self.identity = json.loads(json.dumps(self.identity))
        return self.pipeline

    def prepare(self):
        """Makes the output folder and removes unfinished results of an earlier run of this worker."""
        self.out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def mark(self, case: Case) -> dict | None:
        """The content of a finished case's mark; `None` for an unfinished case."""
        try:
            return json.loads((self.out / case.name / MARK).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def other_settings(self, case: Case) -> list[str]:
        """The names of the settings that differ from those of a finished case."""
        self.load()
        before = (self.mark(case) or {"settings": self.identity})["settings"]
        return sorted(name for name in self.identity | before if before.get(name) != self.identity.get(name))

    def __call__(self, case: Case) -> Outcome:
        """Segments a case unless it is finished; errors of the case become the outcome's `error`."""
        self.load()
        try:
            source = source_checksum(case.path)
            mark = self.mark(case)
            if mark and mark["source"] == source and not self.other_settings(case):
                return Outcome(case.name, skipped=True)
            return Outcome(case.name, self.segment(case, source))
        except (ImportError, TypeError, ValueError) as error:
            reason = " ".join(str(error).replace(case.path, Path(case.path).name).split())  # no path of this disk
            return Outcome(case.name, error=printable(reason))

    def segment(self, case: Case, source: str) -> str:
        """Segments a case, writes its folder, and returns the report for the terminal.

        Raises:
            TypeError, ValueError: for a source that cannot be segmented.
            OSError: if the results cannot be written.
        """
        # 1. segment
        pipeline, settings = self.load(), self.settings
        image = load_image(case.path, pipeline.config.stretch)  # [H, W, C]
        steps = settings.num_inference_steps or pipeline.config.default_num_inference_steps
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = pipeline(case.path, settings.num_masks, steps, seed=settings.seed, regions=[settings.region])
        assert isinstance(output, MedSegLatDiffPipelineOutput)  # not the tuple of `return_dict=False`
        masks, confidence, uncertainty, consensus = (column[0] for column in output.to_tuple()[:4])
        agreement = mean_pairwise_dice(masks, pipeline.num_classes)
        # 2. picture and report
        picture = draw_overview(
            image,
            masks,
            confidence,
            uncertainty,
            consensus,
            threshold=pipeline.config.threshold,
            title=Path(case.path).name,
            subtitle=f"seed {settings.seed}, {steps} steps, model {Path(self.model).name}  |  agreement of the "
            f"masks (mean pairwise Dice) {agreement:.2f}",
        )
        spacing = pixel_spacing(case.path)
        lines = [report(masks, consensus, pipeline.num_classes, spacing)]
        lines.append(f"  agreement    {agreement:.2f} (mean pairwise Dice of the masks)")
        lines += [f"  warning: {entry.message}" for entry in caught if entry.category is UserWarning]
        # 3. write
        target = self.out / case.name
        refuse_links(self.out, target)
        try:
            with naming_full_disk(target):
                folder = self.work / "case"
                folder.mkdir(parents=True)
                write_output(folder, output, picture, settings.formats)
                keep_other_files(target, folder)
                mark = {"case": case.name, "source": source, "settings": self.identity}
                (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", "utf-8")
                target.parent.mkdir(parents=True, exist_ok=True)
                replace_folder(folder, target)
        except OSError as error:
            raise OSError(f"{target} cannot be written: {error}") from error
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
        return "\n".join(lines)


def fingerprint(pipeline: MedSegLatDiffPipeline) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a pipeline's weights and settings."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        config = {key: value for key, value in component.config.items() if not key.startswith("_")}
        digest.update(f"{name} {json.dumps(config, sort_keys=True, default=str)}".encode())
        if isinstance(component, torch.nn.Module):
            for key, value in sorted(component.state_dict().items()):
                digest.update(key.encode() + value.detach().float().cpu().numpy().tobytes())
    config = {key: value for key, value in pipeline.config.items() if not key.startswith("_")}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def source_checksum(path: str) -> str:
    """SHA-256 of a source, in hexadecimal digits; a `ValueError` if it cannot be read."""
    try:
        return sha256(Path(path))
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error


def refuse_links(out: Path, target: Path):
    """Raises a `ValueError` if results would be written through a link in `out`."""
    for folder in (target, *target.parents):
        if folder == out:
            return
        if folder.is_symlink():
            raise ValueError(f"results are not written through the link {folder.name} in the output folder.")


def keep_other_files(before: Path, folder: Path):
    """Copies files that a user has added to the results of an earlier run."""
    for path in before.iterdir() if before.is_dir() else ():
        if path.name != MARK and not WRITTEN.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, folder / path.name, symlinks=True)
            else:
                shutil.copy2(path, folder / path.name, follow_symlinks=False)


def process_index() -> tuple[int, int]:
    """This process's rank and the number of processes, as `accelerate launch` and `torchrun` set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
