"""Publishes a pipeline, a data set or a Space: one commit that replaces what the repository held.

    medseglatdiff publish pipelines/*/ --card-only
    medseglatdiff publish pipelines/medseglatdiff-lidc-idri --repo-id ORG/NAME [--private] [--dry-run]
    medseglatdiff publish data/lidc-idri --dataset --repo-id ORG/NAME
    medseglatdiff publish spaces/medseg_metrics --space --repo-id ORG/NAME

A pipeline's README.md is generated from the files beside it: training.json, results.json and dataset.md, the card of
its training data. `--card-only` writes it in each folder; the published one loads the model from ORG/NAME. Only a
repository that this package published is replaced.
"""

import argparse
from pathlib import Path

from ..data.files import replacing, write_text
from ..data.names import printable
from .publish import PIPELINE_SHIM, check_folder, contents, folder_card, publish
from .repository import KINDS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="medseglatdiff publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="folder", help="a saved pipeline, a data set or a Space"
    )
    parser.add_argument("--repo-id", metavar="ORG/NAME", help="repository to publish to; created if it does not exist")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--dataset", action="store_true", help="the folder is a data set that `dataset` built")
    kind.add_argument("--space", action="store_true", help="the folder is a Space")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is created")
    parser.add_argument("--revision", help="branch to commit to, created if it does not exist")
    parser.add_argument("--message", default="Publish with medseglatdiff", help="first line of the commit")
    parser.add_argument(
        "--dataset-card",
        type=Path,
        metavar="FILE",
        help="card of the training data, copied to dataset.md in the folder",
    )
    parser.add_argument(
        "--card-only", action="store_true", help="write the pipeline's README.md without uploading anything"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be uploaded without uploading anything"
    )
    options = parser.parse_args(arguments)
    if not (options.repo_id or options.card_only):
        parser.error("`--repo-id` must be given, unless `--card-only` is.")
    if len(options.folders) > 1 and not options.card_only:
        parser.error(f"`folder` must be one folder, unless `--card-only` is given, but was {len(options.folders)}.")
    if (options.space or options.dataset) and (options.card_only or options.dataset_card):
        parser.error(
            "`--card-only` and `--dataset-card` must not be given with `--space` or `--dataset`: Spaces and data sets "
            "already have a card."
        )
    return options


def write_card(folder: Path, repo_id: str):
    """Writes README.md, and pipeline.py, with which plain diffusers loads the folder."""
    write_text(folder / "README.md", str(folder_card(folder, repo_id)))
    write_text(folder / "pipeline.py", PIPELINE_SHIM)
    print(f"{printable(folder / 'README.md')} written")


def list_upload(folder: Path, repo_id: str, repo_type: str):
    """Prints each file that publishing would upload, with its size in bytes."""
    held = contents(folder, repo_id, repo_type)
    print(f"Would replace the contents of the {KINDS[repo_type]} {printable(repo_id)} with {len(held)} files:")
    for name, content in sorted(held.items()):
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        print(f"{size:>12,}  {name}")


def main(arguments: list[str] | None = None):
    """`medseglatdiff publish`."""
    options = parse_arguments(arguments)
    for folder in options.folders:
        run(folder, options)


def run(folder: Path, options: argparse.Namespace):
    """Writes the card, lists or publishes one folder."""
    repo_type = "space" if options.space else "dataset" if options.dataset else "model"
    check_folder(folder, repo_type)
    if options.dataset_card:
        with replacing(folder / "dataset.md") as partial:
            partial.write_bytes(options.dataset_card.read_bytes())
    if options.card_only or (options.dry_run and repo_type == "model"):
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
