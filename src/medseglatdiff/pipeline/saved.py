"""Saving and loading a pipeline with checks: only valid files reach diffusers, and two versions are never mixed."""

import hashlib
import json
import os
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id

from ..data.files import file_sha256, read_folder, write_json
from .checks import COMPONENTS, INDEX, check_folder, check_index, read_json

MANIFEST = "manifest.json"
SAVED = (  # what a component saves, as patterns
    "config.json",
    "scheduler_config.json",
    "diffusion_pytorch_model*.safetensors",
    "diffusion_pytorch_model*.json",
)
SOURCE = ("cache_dir", "local_files_only", "revision", "token")  # options that say what is downloaded


class CheckedPipeline(DiffusionPipeline):
    """A `DiffusionPipeline` that loads only what it saved, from a folder or from the Hub."""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Saves like `DiffusionPipeline.save_pretrained`, and finally manifest.json, the checksums of all files."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        forget_paths(folder)
        write_json(folder / MANIFEST, {name: checksum(folder / name) for name in component_files(folder)})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Loads like `DiffusionPipeline.from_pretrained`, but only what this package saved, and runs no code from it.

        A folder that is replaced while it is read is read again.

        Raises:
            OSError: if there is no such folder or repository, a file is missing, or a file cannot be read.
            ValueError: if model_index.json names a foreign class, a setting or component is invalid, or the files were
                not saved together.
        """
        if kwargs.get("custom_pipeline") is not None:
            raise ValueError(
                f"`custom_pipeline` must not be given: {cls.__name__} runs no code from checkpoints. "
                "DiffusionPipeline.from_pretrained does."
            )
        load = super().from_pretrained
        if not os.path.isdir(pretrained_model_name_or_path):
            check_repo_id(pretrained_model_name_or_path)
            return load(pretrained_model_name_or_path, **kwargs)

        def read(folder: Path):
            check_folder(folder, cls)
            pipeline = load(pretrained_model_name_or_path, **kwargs)
            check_manifest(folder)
            return pipeline

        return read_folder(Path(pretrained_model_name_or_path), read)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs) -> str | os.PathLike:
        """Downloads like `DiffusionPipeline.download`, after a check of the repository's model_index.json.

        Raises:
            OSError: if there is no such repository, or it cannot be reached and is not in the cache.
            ValueError: if it is not a pipeline that this package saved.
        """
        source = {name: kwargs[name] for name in SOURCE if name in kwargs}
        check_index(read_json(download_index(pretrained_model_name, **source)), cls)
        folder = super().download(pretrained_model_name, **kwargs)
        check_folder(folder, cls)
        return folder


def check_repo_id(name: str | os.PathLike):
    """Raises an `OSError` if a name that is not a folder cannot be a repository either."""
    if os.path.exists(name):
        raise OSError(f"{name} must be the folder of a pipeline, but is a file.")
    try:
        validate_repo_id(str(name))
    except HFValidationError as error:
        raise OSError(f"There is no folder {name}, and no Hub repository of that name.") from error


def download_index(repo_id: str, **source) -> Path:
    """The path of a repository's model_index.json in the cache; an `OSError` in one sentence if there is none."""
    try:
        return Path(hf_hub_download(repo_id, INDEX, **source))
    except GatedRepoError as error:
        raise OSError(f"The Hub repository {repo_id} is gated: ask for access on its page, then log in.") from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"There is no folder {repo_id}, and no Hub repository of that name (or it is private, and the token may "
            "not read it)."
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(f"The Hub repository {repo_id} has no revision {source.get('revision')!r}.") from error
    except RemoteEntryNotFoundError as error:
        raise OSError(f"The Hub repository {repo_id} must hold a pipeline, but has no file {INDEX}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise OSError(
            f"There is no folder {repo_id}, and no Hub repository of that name can be reached or is in the cache."
        ) from error


def forget_paths(folder: Path):
    """Removes the paths that diffusers stores in configurations: where they were loaded from."""
    for path in [*folder.glob("*.json"), *folder.glob("*/*config.json")]:
        config = read_json(path)
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            write_json(path, config)


def component_files(folder: Path) -> list[str]:
    """Configs and weights of a saved pipeline, as paths within its folder."""
    patterns = [f"{name}/{pattern}" for name in (*COMPONENTS, "scheduler") for pattern in SAVED]
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def checksum(path: Path) -> str:
    """SHA-256 in hexadecimal digits: of a file, or of the settings in a JSON file, whatever their order and layout.

    Names that begin with an underscore are no settings: diffusers keeps there where a model was loaded from.
    """
    if path.suffix == ".json":
        settings = read_json(path)
        if isinstance(settings, dict):  # what is none has changed
            settings = {name: value for name, value in settings.items() if not name.startswith("_")}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return file_sha256(path)


def check_manifest(folder: Path):
    """Raises a `ValueError` if a folder has a manifest and its components are not the files listed there.

    Settings in model_index.json may change, as calibration changes them.
    """
    if not (folder / MANIFEST).is_file():
        return
    saved = read_json(folder / MANIFEST)
    if not isinstance(saved, dict):
        raise ValueError(f"{folder / MANIFEST} must contain checksums by file name: save the pipeline again.")
    changed = [name for name in component_files(folder) if saved.get(name) != checksum(folder / name)]
    if changed:
        raise ValueError(
            f"{changed[0]} in {folder} must be the file that was saved with the others, but has changed since: save "
            f"the pipeline again, or delete {MANIFEST} if you meant the change."
        )
