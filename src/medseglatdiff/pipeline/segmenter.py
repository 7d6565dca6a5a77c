"""From one case's file to its finished results: used by the command and on clusters."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..data.files import PREFIX, file_sha256, naming_full_disk, replace_folder
from ..data.findings import Finding
from ..data.names import printable
from ..data.volumes import is_volume, read_volume
from ..models.modeling import weights_sha256
from .case_results import CaseResult, SegmentSettings, segment_image, segment_in_volume
from .cases import Case, case_stem
from .files import WRITTEN
from .loading import load_pipeline
from .pipeline import MedSegLatDiffPipeline

MARK = "done.json"  # in the folder of a case whose results are whole
DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in other files
FINDING = re.compile(r"finding-\d+|seg(-confidence)?\.dcm")


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
        region (`tuple[float, ...]`, *optional*): where to look in every case: a point `(x, y)` or a box `(left, top,
            right, bottom)` of images, a point `(x, y, z)` of volumes.
        findings (`Sequence[Finding]`, *optional*): where to look in each case, in place of `region`.
        worker (`str`, *optional*, defaults to `"0"`): names this process among those that write to `out`.
    """

    def __init__(
        self,
        model: str,
        out: Path,
        settings: SegmentSettings,
        region: tuple[float, ...] | None = None,
        findings: Sequence[Finding] = (),
        worker: str = "0",
    ):
        self.model, self.out, self.settings = model, Path(out), settings
        self.region, self.findings = region, tuple(findings)
        self.work = self.out / f"{PREFIX}{worker}"  # unfinished results of this process alone
        self.pipeline: MedSegLatDiffPipeline | None = None
        self.identity: dict = {}
        self.uids: dict[str, str | None] = {}  # by path: every slice's header is read for one

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

    def findings_of(self, case: Case) -> list[Finding]:
        """The listed findings that lie in a case: those that name it, its file or its series."""
        names = {case.name, case_stem(Path(case.path)), self._uid(case.path)}
        return [finding for finding in self.findings if finding.case in names]

    def _uid(self, path: str) -> str | None:
        """The series of a volume; `None` for one that cannot be read, which says why when its turn comes."""
        if path not in self.uids:
            self.uids[path] = None
            if any(finding.unit == "mm" for finding in self.findings) and is_volume(path):
                with suppress(ValueError):
                    self.uids[path] = read_volume(path).uid
        return self.uids[path]

    def places(self, case: Case) -> list:
        """Where to look in a case, as its mark stores it."""
        return [list(finding.point) for finding in self.findings_of(case)] or [self.region and list(self.region)]

    def other_settings(self, case: Case) -> list[str]:
        """The names of the settings with which a finished case was computed otherwise."""
        mark = self.mark(case)
        if mark is None:
            return []
        self.load()
        now, before = self.identity | {"places": self.places(case)}, mark["settings"] | {"places": mark["places"]}
        return sorted(name for name in now | before if before.get(name) != now.get(name))

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
        target = self.out / case.name
        refuse_links(self.out, target)
        try:
            with naming_full_disk(target):
                folder = self.work / "case"
                folder.mkdir(parents=True)
                results = self.results(case, folder)
                keep_other_files(target, folder)
                rows = [{"case": case.name, "finding": n} | own.row for n, own in enumerate(results, 1) if own.row]
                mark = {"case": case.name, "source": source, "settings": self.identity}
                mark |= {"places": self.places(case), "measurements": rows}
                (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", "utf-8")
                target.parent.mkdir(parents=True, exist_ok=True)
                replace_folder(folder, target)
        except OSError as error:
            raise OSError(f"{target} cannot be written: {error}") from error
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
        return "\n".join(line for result in results for line in result.lines)

    def results(self, case: Case, folder: Path) -> list[CaseResult]:
        """Segments what is to be looked at in a case; findings of a list, and those of volumes, have folders each."""
        pipeline, model, findings = self.load(), Path(self.model).name, self.findings_of(case)
        if is_volume(case.path):
            volume = read_volume(case.path)
            points = [finding.index_in(volume) for finding in findings]
            if not points:
                if self.region is None or len(self.region) != 3:
                    raise ValueError(
                        f"{case.path} is a volume, which is segmented around a finding: give `--point X,Y,Z` "
                        "(indices of a voxel) or `--findings FILE.csv`."
                    )
                points = [self.region]
            folders = [subfolder(folder, number) for number in range(1, len(points) + 1)]
            pairs = zip(points, folders, strict=True)
            return [segment_in_volume(pipeline, volume, point, self.settings, model, own) for point, own in pairs]
        if not findings:
            return [segment_image(pipeline, case.path, self.region, self.settings, model, folder, measured=False)]
        return [
            segment_image(
                pipeline, case.path, finding.point, self.settings, model, subfolder(folder, number), measured=True
            )
            for number, finding in enumerate(findings, start=1)
        ]


def subfolder(folder: Path, number: int) -> Path:
    """A new folder for a finding."""
    path = folder / f"finding-{number}"
    path.mkdir()
    return path


def fingerprint(pipeline: MedSegLatDiffPipeline) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a pipeline's weights and settings."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        config = {key: value for key, value in component.config.items() if not key.startswith("_")}
        digest.update(f"{name} {json.dumps(config, sort_keys=True, default=str)}".encode())
        if isinstance(component, torch.nn.Module):
            digest.update(weights_sha256(component).encode())
    config = {key: value for key, value in pipeline.config.items() if not key.startswith("_")}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def source_checksum(path: str) -> str:
    """SHA-256 of a file; of several, those of a folder or of a header and the voxels that it names, that of all their
    names and checksums. A `ValueError` if they cannot be read."""
    try:
        source = Path(path)
        if source.is_dir():
            files = sorted(file for file in source.iterdir() if file.is_file())
        elif source.name.lower().endswith(DETACHED):
            lines = tuple(line.strip() for line in source.read_text("latin-1").splitlines())
            beside = sorted(file for file in source.parent.iterdir() if file.is_file())
            files = [source, *(file for file in beside if any(line.endswith(file.name) for line in lines))]
        else:
            return file_sha256(source)
        return hashlib.sha256(json.dumps([(file.name, file_sha256(file)) for file in files]).encode()).hexdigest()
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
        if path.name != MARK and not WRITTEN.fullmatch(path.name) and not FINDING.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, folder / path.name, symlinks=True)
            else:
                shutil.copy2(path, folder / path.name, follow_symlinks=False)


def process_index() -> tuple[int, int]:
    """This process's rank and the number of processes, as `accelerate launch` and `torchrun` set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
