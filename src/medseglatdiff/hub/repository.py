"""A repository on the Hub: whether it may be replaced, the commit that replaces it, and errors in one sentence."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from ..data.names import printable

KINDS = {"model": "model", "dataset": "data set", "space": "Space"}  # in messages
BY_THE_HUB = {".gitattributes", "README.md"}  # what a new repository may contain
MARKS = {  # files that show, any one of them, that this package published the repository
    "model": ("model_index.json",),
    "dataset": ("report.json",),
    "space": ("README.md", "app.py"),
}


def check_token():
    """Raises a `PermissionError` if huggingface_hub has no token."""
    if get_token() is None:
        raise PermissionError("Publishing needs a token: run `hf auth login`, or set HF_TOKEN.")


def check_ours(api: HfApi, repo_id: str, repo_type: str):
    """Raises a `ValueError` unless a repository is free, empty, or one that this package published.

    Another kind of repository may have the same name: the Hub keeps models, data sets and Spaces apart.
    """
    try:
        held = set(api.list_repo_files(repo_id, repo_type=repo_type)) - BY_THE_HUB
    except RepositoryNotFoundError:
        return
    if held and not any(is_mark(api, repo_id, repo_type, name) for name in MARKS[repo_type]):
        raise ValueError(
            f"`repo_id` must be free or name a {KINDS[repo_type]} that medseglatdiff published, but {repo_id} holds "
            f"something else ({', '.join(map(printable, sorted(held)[:3]))}): choose another name, or delete that "
            "repository first."
        )


def is_mark(api: HfApi, repo_id: str, repo_type: str, name: str) -> bool:
    """Whether a repository has this file and medseglatdiff wrote it."""
    if not api.file_exists(repo_id, name, repo_type=repo_type):
        return False
    text = Path(api.hf_hub_download(repo_id, name, repo_type=repo_type)).read_text("utf-8", errors="replace")
    if repo_type == "space":
        return "medseglatdiff" in text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    written_by = {"model": ("_class_name", "MedSegLatDiffPipeline"), "dataset": ("built_from", "medseglatdiff")}
    key, name = written_by[repo_type]
    return isinstance(content, dict) and name in json.dumps(content.get(key))


def replace_repository(
    contents: Mapping[str, bytes | Path],
    repo_id: str,
    repo_type: str,
    *,
    private: bool = False,
    revision: str | None = None,
    space_sdk: str | None = None,
    commit_message: str,
) -> CommitInfo:
    """Makes these files the only contents of a repository, in one commit; creates it if it does not exist.

    Args:
        contents (`Mapping`): bytes or a local file, by path in the repository.
        repo_id (`str`): "ORG/NAME".
        repo_type (`str`): `"model"`, `"dataset"` or `"space"`.
        private, revision, commit_message: as in `publish`.
        space_sdk (`str`, *optional*): SDK of a new Space.

    Raises:
        ValueError: if this package did not publish the repository, or the Hub refuses a file or name.
        PermissionError: without a token, or with one that has no write access.
        ConnectionError: if the Hub cannot be reached or fails.
    """
    check_token()
    api = HfApi()
    with hub_errors(repo_id):
        check_ours(api, repo_id, repo_type)
        api.create_repo(repo_id, repo_type=repo_type, private=private, space_sdk=space_sdk, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        held = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)) - {".gitattributes"}
        added = [CommitOperationAdd(name, content) for name, content in contents.items()]
        deleted = [CommitOperationDelete(name) for name in sorted(held - contents.keys())]
        return api.create_commit(
            repo_id,
            [*added, *deleted],
            commit_message=commit_message,
            repo_type=repo_type,
            revision=revision,
        )


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns errors of the Hub and of the network into one sentence that names the repository."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"`repo_id` must be ORG/NAME, but was {repo_id!r}.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"The token may not write to {repo_id}: it needs the role `write` there.") from error
        raise ConnectionError(f"The Hub answered {status} for {repo_id}: {first_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"{repo_id} cannot be reached: HF_HUB_OFFLINE is set.") from error
    except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: an upload that kept failing
        raise ConnectionError(
            f"The Hub could not be reached for {repo_id}: {first_line(error.__cause__ or error)}"
        ) from error
    except ValueError as error:
        if repo_id in str(error):
            raise
        raise ValueError(f"The Hub refused an upload to {repo_id}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__
