"""Uploads of a training run: the finished pipeline, and, if asked for, each best one before, in the background."""

from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import HfApi

from ..data.files import replacing_folder
from ..hub.publish import publish
from ..hub.repository import check_token
from ..pipeline.pipeline import MedSegLatDiffPipeline


class Publisher:
    """Uploads of one run, for its main process alone; `PermissionError` at once if there is no token.

    An upload in the background stops nothing: why one failed is printed, and a best pipeline that comes while another
    is on its way is left out.
    """

    def __init__(self, repo_id: str, output_dir: Path):
        check_token()
        self.repo_id, self.folder = repo_id, output_dir / "best-pipeline"
        self.upload: Future | None = None

    def publish_best(self, pipeline: MedSegLatDiffPipeline, step: int):
        """Saves the pipeline as it is now and uploads it in the background."""
        if self.upload is not None and not self.upload.done():
            return
        self.report_failure()
        with replacing_folder(self.folder) as partial:
            pipeline.save_pretrained(partial)
        message = f"Best so far, after {step} steps"
        self.upload = HfApi().run_as_future(publish, self.folder, self.repo_id, commit_message=message)

    def publish_last(self, folder: Path):
        """Waits for what is on its way, then uploads the finished pipeline and raises whatever goes wrong."""
        self.report_failure()
        publish(folder, self.repo_id, commit_message="Trained to the end")

    def report_failure(self):
        """Waits for the upload before and prints why it failed, if it did."""
        if self.upload is not None and (error := self.upload.exception()) is not None:
            print(f"{self.repo_id}: a best pipeline was not published: {error}")
