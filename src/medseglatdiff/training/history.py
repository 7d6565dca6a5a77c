"""What is known of the training of a pipeline: its training.json, as it is written today and as it was before.

training.json holds `config`, the settings of the run that wrote it; what that run depended on (`rows`,
`num_processes`, `hardware`, `versions`, `git_commit`); and `stages`, by name: every stage that the weights went
through, with what it depended on, its `settings`, and where its best weights were found.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from .provenance import public

RUN_FACTS = ("rows", "num_processes", "hardware", "versions", "git_commit")


def read_record(record: Mapping) -> dict:
    """training.json with the full settings of every stage.

    Version 0.1.0 kept of a stage's settings, as `other_settings`, only those that were others than in `config`. What
    it depended on besides stood nowhere for stages of the run that wrote the file, whose facts those are.
    """
    facts = {name: record[name] for name in RUN_FACTS if name in record}
    stages = {}
    for name, stage in record["stages"].items():
        if "settings" not in stage:
            stage, others = dict(stage), stage.get("other_settings", {})
            stage.pop("other_settings", None)
            own_run = "output_dir" not in others and not name.startswith("start/")
            known = facts if own_run else {"num_processes": record["num_processes"]}
            stage = known | stage | {"settings": record["config"] | others}
        stages[name] = stage
    return {**record, "stages": stages}


def start_folder(start: str) -> Path:
    """The folder of a pipeline to start from; of a Hub id a snapshot of its JSON files.

    Raises:
        ValueError: if there is no such folder, and no such pipeline on the Hub.
    """
    folder = Path(start)
    if not folder.exists():
        try:
            folder = Path(snapshot_download(start, allow_patterns="*.json"))
        except HFValidationError:
            raise ValueError(f"`start_from` must be a folder or a Hub id, but there is no folder {start}.") from None
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"`start_from` must be a folder or a Hub id, but there is no folder {start}, and the Hub gave no such "
                f"repository: {reason}"
            ) from error
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"`start_from` must be a pipeline, but {start} holds no model_index.json.")
    return folder


def stages_of(folder: Path) -> dict[str, dict]:
    """The stages that made a pipeline, from its training.json; none where it has no such file.

    Raises:
        ValueError: if the file is not what training writes.
    """
    path = folder / "training.json"
    if not path.is_file():
        return {}
    try:
        stages = read_record(json.loads(path.read_text("utf-8")))["stages"]
        return {name: run | {"settings": public(run["settings"])} for name, run in stages.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"training.json of {folder.name} is not what training writes: {error!r}") from error


def with_stage(earlier: dict[str, dict], name: str, stage: dict) -> dict[str, dict]:
    """The stages that made a pipeline and one more; where it had been one of them before, that is `start/NAME`.

    Trained on once more, that becomes `start/start/NAME`: no run is lost.
    """
    renamed = {f"start/{other}" if other.split("/")[-1] == name else other: run for other, run in earlier.items()}
    return {**renamed, name: stage}
