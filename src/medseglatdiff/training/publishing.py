"""Publishing from a training run: the pipeline at the end and, if asked, each best one before, in the background."""

import shutil
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import HfApi

from ..hub.publish import publish
from ..hub.repository import check_token
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .config import Config
from .saving import replace_folder


class Publisher:
    """Uploads of one run, for its main process alone; `PermissionError` at once if there is no token.

    An upload in the background stops nothing: one that fails is told and forgotten, and a best pipeline that comes
    while another is on its way is left out.
    """

    def __init__(self, config: Config):
        check_token()
        self.repo_id, self.folder = config.hub_model_id, Path(config.output_dir) / "best-pipeline"
        self.upload: Future | None = None

    def publish_best(self, pipeline: MedSegLatDiffPipeline, step: int):
        """Saves the pipeline as it is now and uploads it in the background."""
        if self.upload is not None and not self.upload.done():
            return
        self.tell_failure()
        partial = self.folder.with_name(self.folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        pipeline.save_pretrained(partial)
        replace_folder(partial, self.folder)
        message = f"Best so far, after {step} steps"
        self.upload = HfApi().run_as_future(publish, self.folder, self.repo_id, commit_message=message)

    def publish_last(self, folder: Path):
        """Waits for what is on its way, then uploads the finished pipeline and raises whatever goes wrong."""
        self.tell_failure()
        publish(folder, self.repo_id, commit_message="Trained to the end")

    def tell_failure(self):
        """Waits for the upload before and prints why it failed, if it did."""
        if self.upload is not None and (error := self.upload.exception()) is not None:
            print(f"{self.repo_id}: a best pipeline was not published: {error}")
