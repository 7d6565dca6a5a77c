"""Publishes a pipeline or a Space: one commit that replaces what the repository held.

    python training/publish.py pipelines/*/ --card-only
    python training/publish.py pipelines/medseglatdiff-lidc-idri --repo-id ORG/NAME [--private] [--dry-run]
    python training/publish.py --space spaces/medseg_metrics --repo-id ORG/NAME

A pipeline's README.md is a function of the files beside it: training.json, results.json and dataset.md, the card of
its training data. `--card-only` writes it for every folder named; the published one names ORG/NAME in its snippet.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from huggingface_hub.utils import httpx

from .publish import check_folder, folder_card, publish, stage


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="a pipeline, or with --space a Space")
    parser.add_argument("--repo-id", metavar="ORG/NAME", help="where to publish; created if it does not exist")
    parser.add_argument("--space", action="store_true", help="the folder is a Space")
    parser.add_argument("--private", action="store_true", help="if the repository is created")
    parser.add_argument("--revision", help="branch to commit to, created if need be")
    parser.add_argument("--message", default="Publish with medseglatdiff", help="first line of the commit")
    parser.add_argument("--dataset-card", type=Path, metavar="FILE", help="copied to dataset.md in the folder first")
    parser.add_argument("--card-only", action="store_true", help="write the folder's README.md and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="write README.md, list what would be uploaded, and stop"
    )
    options = parser.parse_args(arguments)
    if not (options.repo_id or options.card_only):
        parser.error("`--repo-id` must be given, unless `--card-only` is.")
    if len(options.folders) > 1 and not options.card_only:
        parser.error(f"`folder` must be one folder, unless `--card-only` is given, but was {len(options.folders)}.")
    if options.space and (options.card_only or options.dataset_card):
        parser.error("`--card-only` and `--dataset-card` must not be given with `--space`: a Space has its own card.")
    return options


def write_card(folder: Path, repo_id: str):
    """Writes README.md under a temporary name, then renames."""
    partial = folder / "README.md.partial"
    partial.write_text(str(folder_card(folder, repo_id)), "utf-8")
    partial.rename(folder / "README.md")
    print(f"{folder / 'README.md'} written")


def list_upload(folder: Path, repo_id: str, repo_type: str):
    """Prints every file that publishing would upload, with its size."""
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, "staged")
        stage(folder, repo_id, repo_type, target)
        paths = sorted(path for path in target.rglob("*") if path.is_file())
        print(f"Would replace what the {repo_type} {repo_id} holds by {len(paths)} files:")
        for path in paths:
            print(f"{path.stat().st_size:>12,}  {path.relative_to(target).as_posix()}")


def main(arguments: list[str] | None = None):
    options = parse_arguments(arguments)
    try:
        for folder in options.folders:
            run(folder, options)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise SystemExit(f"publish: {error}") from error


def run(folder: Path, options: argparse.Namespace):
    """Writes the card, lists or publishes one folder."""
    repo_type = "space" if options.space else "model"
    check_folder(folder, repo_type)
    if options.dataset_card:
        shutil.copyfile(options.dataset_card, folder / "dataset.md")
    if options.card_only or (options.dry_run and not options.space):
        write_card(folder, options.repo_id or folder.as_posix())
    if options.dry_run:
        list_upload(folder, options.repo_id, repo_type)
    if options.card_only or options.dry_run:
        return
    commit = publish(
        folder,
        options.repo_id,
        repo_type=repo_type,
        private=options.private,
        revision=options.revision,
        commit_message=options.message,
    )
    print(commit.commit_url)
