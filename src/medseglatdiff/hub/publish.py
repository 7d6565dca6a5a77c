"""Model cards, generated from files, and publishing: one commit that replaces the contents of a repository."""

import json
import re
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

from huggingface_hub import CommitInfo, DatasetCard, EvalResult, ModelCard, ModelCardData, SpaceCard

from ..data.names import printable
from ..pipeline.checks import COMPONENTS
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.saved import SAVED
from .cards import data_facts, example_image, pipeline_facts, training_facts
from .repository import KINDS, check_token, replace_repository
from .result_cards import HEADLINES, METRICS, result_facts, tiny_lesions

PIPELINE_SHIM = '''"""Lets DiffusionPipeline load this folder or repository; it needs the package medseglatdiff.

DiffusionPipeline.from_pretrained(folder_or_id, custom_pipeline=folder_or_id, trust_remote_code=True)
"""

from medseglatdiff import MedSegLatDiffPipeline

__all__ = ["MedSegLatDiffPipeline"]
'''
PUBLISHED = {  # the only files of a folder that are uploaded
    "model": (
        *("model_index.json", "README.md", "LICENSE*", "dataset.md", "plot_*.png"),
        *("training.json", "calibration.json", "results.json"),
        *(f"{name}/{pattern}" for name in (*COMPONENTS, "scheduler") for pattern in SAVED),
    ),
    "dataset": ("README.md", "LICENSE*", "report.json", "data/*.parquet"),
    "space": ("*",),
}
LEFT_OUT = (".*", "__pycache__", "*.partial", "*.parts", "checkpoint-*")  # of a Space, at any depth


def model_card(
    pipeline: MedSegLatDiffPipeline,
    settings: dict,
    results: dict,
    *,
    repo_id: str | None = None,
    dataset_card: DatasetCard | None = None,
) -> ModelCard:
    """The card of a pipeline: a pure function of its arguments. Sections without any content are left out.

    Args:
        pipeline (`MedSegLatDiffPipeline`): the pipeline to describe.
        settings (`dict`): how it was trained, as `medseglatdiff train` writes it to training.json; may be empty.
        results (`dict`): as `medseglatdiff evaluate` writes it to results.json; may be empty.
        repo_id (`str`, *optional*): the id or folder to load in the example; by default where `pipeline` was loaded
            from.
        dataset_card (`DatasetCard`, *optional*): the card of the training data.

    Raises:
        ImportError: without jinja2.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('A model card needs jinja2: pip install "medseglatdiff[hub]".') from error
    repo_id = repo_id or str(pipeline.name_or_path)
    name = repo_id.rstrip("/").split("/")[-1]
    dataset = results.get("dataset") or settings.get("config", {}).get("dataset", "unknown")
    data = data_facts(dataset, dataset_card)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    text = environment.from_string(files(__package__).joinpath("model_card.md").read_text("utf-8")).render(
        metadata=card_metadata(name, data, results).to_yaml(),
        name=name,
        repo_id=repo_id,
        facts=pipeline_facts(pipeline),
        example=example_image(data["id"], pipeline.image_encoder.config.in_channels),
        data=data,
        training=training_facts(settings) if settings else None,
        results=result_facts(results, data["name"]) if results else None,
        tiny=tiny_lesions(results),
    )
    return ModelCard(text)


def card_metadata(name: str, data: dict, results: dict) -> ModelCardData:
    """The YAML of a card; its `model-index` has each headline metric that was measured."""
    entries = {metric: results["metrics"].get(metric, {}) for metric in HEADLINES} if results else {}
    measured = {metric: entry["value"] for metric, entry in entries.items() if entry.get("value") is not None}
    evaluations = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=data["id"],
            dataset_name=data["name"],
            dataset_split=results["split"],
            metric_type=metric,
            metric_name=f"{METRICS[metric].rstrip(' ↑↓')}, {results['num_masks']} masks",
            metric_value=value,
        )
        for metric, value in measured.items()
    ]
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-segmentation",
        license=data.get("license") or "apache-2.0",
        license_name=data.get("license_name") or None,
        tags=["medseglatdiff", "uncertainty", "latent-diffusion", "arxiv:2512.01292", *data.get("tags", [])],
        datasets=[data["id"]],
        metrics=list(measured) or None,
        model_name=name,
        eval_results=evaluations or None,
    )


def folder_card(folder: Path, repo_id: str) -> ModelCard:
    """`model_card` of a saved pipeline, from the files beside it: training.json, results.json, dataset.md."""
    settings, results = (
        json.loads((folder / file).read_text("utf-8")) if (folder / file).exists() else {}
        for file in ("training.json", "results.json")
    )
    data = folder / "dataset.md"
    dataset_card = DatasetCard(data.read_text("utf-8")) if data.exists() else None
    pipeline = MedSegLatDiffPipeline.from_pretrained(folder)
    return model_card(pipeline, settings, results, repo_id=repo_id, dataset_card=dataset_card)


def published_files(folder: Path, repo_type: str) -> list[Path]:
    """The files of a folder that are uploaded, as paths within it: nothing hidden or unfinished, no contact sheet.

    Raises:
        ValueError: for a link, which might lead anywhere on the disk, and for a name that cannot be printed.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(fnmatch(part, pattern) for part in relative.parts for pattern in LEFT_OUT):
            continue
        if path.is_symlink():
            raise ValueError(
                f"`folder` must contain no links, but {printable(relative)} is one: replace it by the file."
            )
        if not path.is_file() or not any(matches(relative, pattern) for pattern in PUBLISHED[repo_type]):
            continue
        if not str(relative).isprintable():
            raise ValueError(
                f"`folder` must contain only files with printable names, but contains {printable(relative)}."
            )
        found.append(relative)
    return found


def matches(relative: Path, pattern: str) -> bool:
    """Whether a path within a folder matches a pattern; "*" matches at any depth, other patterns only at theirs."""
    same_depth = len(relative.parts) == len(pattern.split("/"))
    return pattern == "*" or (same_depth and fnmatch(relative.as_posix(), pattern))


def contents(folder: Path, repo_id: str, repo_type: str) -> dict[str, bytes | Path]:
    """The contents of a repository: bytes or a local file, by path in the repository.

    A pipeline gets its card and the shim for plain diffusers; local paths that diffusers stored are removed.
    A data set's card loads the data by `repo_id`; in a Space's README the namespace replaces ORG.
    """
    held: dict[str, bytes | Path] = {path.as_posix(): folder / path for path in published_files(folder, repo_type)}
    if repo_type == "model":
        for name in [name for name in held if name.split("/")[-1] in ("model_index.json", "config.json")]:
            config = json.loads((folder / name).read_text("utf-8"))
            config.pop("_name_or_path", None)
            held[name] = (json.dumps(config, indent=2) + "\n").encode()
        held |= {"README.md": str(folder_card(folder, repo_id)).encode(), "pipeline.py": PIPELINE_SHIM.encode()}
        return held
    readme = (folder / "README.md").read_text("utf-8")
    if repo_type == "dataset":
        readme = re.sub(r'load_dataset\("[^"]*"', f'load_dataset("{repo_id}"', readme)
    else:
        readme = readme.replace("ORG/", f"{repo_id.split('/')[0]}/")
    return held | {"README.md": readme.encode()}


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Publish with medseglatdiff",
) -> CommitInfo:
    """Makes a Hub repository hold this folder and nothing else, in one commit.

    Args:
        folder (`str` or `Path`): a saved pipeline, a data set that the builders wrote, or a Space.
        repo_id (`str`): "ORG/NAME"; created if it does not exist.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`, *optional*, defaults to `False`): whether a repository that is created is private.
        revision (`str`, *optional*): branch to commit to, created if it does not exist; by default the main one.
        commit_message (`str`, *optional*): first line of the commit.

    Raises:
        ValueError: if `folder` is not of this type or contains links, `repo_id` is not a valid name, or its repository
            was not published by this package.
        PermissionError: without a token, or with one that has no write access.
        ConnectionError: if the Hub cannot be reached or fails.
    """
    folder = Path(folder)
    check_folder(folder, repo_type)
    check_token()
    return replace_repository(
        contents(folder, repo_id, repo_type),
        repo_id,
        repo_type,
        private=private,
        revision=revision,
        space_sdk=SpaceCard.load(folder / "README.md").data.sdk if repo_type == "space" else None,
        commit_message=commit_message,
    )


def check_folder(folder: Path, repo_type: str):
    """Raises a `ValueError` if the folder lacks a file that every pipeline, data set or Space has."""
    required = {"model": ("model_index.json",), "dataset": ("README.md", "report.json"), "space": ("README.md",)}
    if repo_type not in required:
        raise ValueError(f"`repo_type` must be one of {tuple(required)}, but was {repo_type!r}.")
    if lacking := [name for name in required[repo_type] if not (folder / name).is_file()]:
        raise ValueError(
            f"`folder` must be a {KINDS[repo_type]} and contain {lacking[0]}, but was {printable(folder)}."
        )
