"""Model cards that are a function of files, and publishing: one commit that replaces what a repository held."""

import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    DatasetCard,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    SpaceCard,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError

from ..pipeline.pipeline import MedSegLatDiffPipeline
from .cards import data_facts, pipeline_facts, training_facts
from .result_cards import HEADLINES, METRICS, result_facts, tiny_lesions

PIPELINE_SHIM = '''"""Lets plain diffusers load this repository's pipeline; needs `pip install medseglatdiff`.

DiffusionPipeline.from_pretrained(repo_id, custom_pipeline=repo_id, trust_remote_code=True)
"""

from medseglatdiff import MedSegLatDiffPipeline

__all__ = ["MedSegLatDiffPipeline"]
'''
UNPUBLISHED = (".*", "__pycache__", "*.partial", "*.parts")


def model_card(
    pipeline: MedSegLatDiffPipeline,
    settings: dict,
    results: dict,
    *,
    repo_id: str | None = None,
    dataset_card: DatasetCard | None = None,
) -> ModelCard:
    """The card of a pipeline: a pure function of its arguments. What nothing is known of has no section.

    Args:
        pipeline (`MedSegLatDiffPipeline`): the one that the card is about.
        settings (`dict`): how it was trained, as training/train.py writes it to training.json; may be empty.
        results (`dict`): as training/evaluate.py writes it to results.json; may be empty.
        repo_id (`str`, *optional*): what users load; by default where `pipeline` was loaded from.
        dataset_card (`DatasetCard`, *optional*): the card of the training data.

    Raises:
        ImportError: without jinja2.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("A model card needs jinja2: pip install 'medseglatdiff[hub]'.") from error
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
        data=data,
        training=training_facts(settings) if settings else None,
        results=result_facts(results, data["name"]) if results else None,
        tiny=tiny_lesions(results),
    )
    return ModelCard(text)


def card_metadata(name: str, data: dict, results: dict) -> ModelCardData:
    """The YAML of a card; `model-index` holds every headline that was measured."""
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


def stage(folder: Path, repo_id: str, repo_type: str, target: Path):
    """Copies to `target` what a repository will hold.

    A pipeline gets its card and the shim for plain diffusers, and loses the local path that diffusers keeps of where
    it was loaded from; in a Space's README the namespace replaces ORG.
    """
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*UNPUBLISHED))
    readme = target / "README.md"
    if repo_type == "space":
        readme.write_text(readme.read_text("utf-8").replace("ORG/", f"{repo_id.split('/')[0]}/"), "utf-8")
    else:
        readme.write_text(str(folder_card(target, repo_id)), "utf-8")
        (target / "pipeline.py").write_text(PIPELINE_SHIM, "utf-8")
        for path in [target / "model_index.json", *target.glob("*/config.json")]:
            config = json.loads(path.read_text("utf-8"))
            config.pop("_name_or_path", None)
            path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


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
        folder (`str` or `Path`): a saved pipeline, or a Space.
        repo_id (`str`): "ORG/NAME"; created if it does not exist.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"space"`.
        private (`bool`, *optional*, defaults to `False`): of a repository that is created.
        revision (`str`, *optional*): branch to commit to, created if need be; the main one by default.
        commit_message (`str`, *optional*): first line of the commit.

    Raises:
        ValueError: if `folder` is none of the kind, or `repo_id` names a repository of another kind only.
        PermissionError: without a token, or with one that may not write there.
    """
    folder, api = Path(folder), HfApi()
    check_folder(folder, repo_type)
    check_token()
    try:
        check_kind(api, repo_id, repo_type)
        sdk = SpaceCard.load(folder / "README.md").data.sdk if repo_type == "space" else None
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary, folder.resolve().name)
            stage(folder, repo_id, repo_type, target)
            api.create_repo(repo_id, repo_type=repo_type, private=private, space_sdk=sdk, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
            return api.upload_folder(
                folder_path=target,
                repo_id=repo_id,
                repo_type=repo_type,
                revision=revision,
                commit_message=commit_message,
                delete_patterns="*",
            )
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"The token may not write to {repo_id}: its role must be write, in that name."
        ) from error


def check_token():
    """Raises a `PermissionError` if huggingface_hub knows no token."""
    if get_token() is None:
        raise PermissionError("Publishing needs a token: run `hf auth login`, or set HF_TOKEN.")


def check_folder(folder: Path, repo_type: str):
    """Raises a `ValueError` if the folder does not hold what makes it a pipeline or a Space."""
    required = {"model": "model_index.json", "space": "README.md"}
    if repo_type not in required:
        raise ValueError(f"`repo_type` must be one of {tuple(required)}, but was {repo_type!r}.")
    if not (folder / required[repo_type]).is_file():
        raise ValueError(f"`folder` must be a {repo_type}'s and hold {required[repo_type]}, but was {folder}.")


def check_kind(api: HfApi, repo_id: str, repo_type: str):
    """Raises a `ValueError` if the id is taken, but only by a repository of another kind: a slip, most likely."""
    kinds = [kind for kind in ("model", "dataset", "space") if api.repo_exists(repo_id, repo_type=kind)]
    if kinds and repo_type not in kinds:
        raise ValueError(f"`repo_id` must be free or name a {repo_type}, but {repo_id} is a {kinds[0]}.")
