"""Trains mask autoencoder, image autoencoder, denoiser and at last the whole sampler, and saves a pipeline.

    medseglatdiff train
    accelerate launch --quiet training/train.py --config training/configs/lidc_idri.json [--stage unet] [--resume]

Every file of a run lies in its `output_dir`: a folder per stage with `checkpoint-N`, `best.safetensors`, the
finished models and the tracker's logs, and at the end `pipeline/`, which `MedSegLatDiffPipeline.from_pretrained`
loads.
"""

import dataclasses
import shlex
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, set_seed
from tqdm import tqdm

from ..data.files import sweep, write_json
from ..data.splits import SegmentationSplit, load_split, open_split
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .autoencoders import ImageAutoencoderStage, MaskAutoencoderStage, MaskDecoderStage
from .checks import check_models
from .config import Config
from .denoiser import DenoiserStage, untrained_pipeline
from .energy import EnergyStage
from .fitting import fit
from .history import stages_of, start_folder, with_stage
from .inheritance import drop_choices, inherit, pipeline_settings
from .launcher import use_threads
from .lock import check_free, holding
from .parsing import given_settings
from .precision import resolve_precision
from .publishing import Publisher
from .records import read_stages, save_model, save_pipeline
from .resuming import checkpoint_to_resume
from .watchdog import end_with_launcher


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run need: its settings, both splits, and where to publish, if at all."""

    config: Config
    train: SegmentationSplit
    validation: SegmentationSplit
    publisher: Publisher | None

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    def save(self, pipeline: MedSegLatDiffPipeline, folder: Path, earlier: dict, stage: str, dropped: dict):
        """Saves a pipeline with the history of its stages, of which `stage` is the last."""
        entry = read_stages(self.output_dir, stage)[stage] | ({"set_back": dropped} if dropped else {})
        rows = {"train": len(self.train), "validation": len(self.validation)}
        save_pipeline(pipeline, self.config, folder, rows, with_stage(earlier, stage, entry))


def stage_names(config: Config) -> list[str]:
    """The stages that a run trains, in order."""
    wanted = ["mask_vae", "image_vae", "unet", "energy"] if config.stage == "all" else [config.stage]
    left_out = set()
    if config.start_from:
        left_out |= {"mask_vae", "image_vae"}
    if config.image_encoder is not None:
        left_out.add("image_vae")
    if not config.energy_steps:
        left_out.add("energy")
    names = [name for name in wanted if name not in left_out]
    if not names:
        raise ValueError(f"`stage` must be one that these settings have, but was {config.stage}: see `image_encoder`.")
    return names


def check_earlier(config: Config, stages: list[str]):
    """Raises a `ValueError` where the first stage builds on another that is neither in the run nor in `output_dir`."""
    needed = {"unet": ["mask_vae/model"], "energy": ["unet/pipeline"]}.get(stages[0], [])
    if stages[0] == "unet" and config.image_encoder is None:
        needed.append("image_vae/model")
    for name in [] if config.start_from else needed:
        if not (Path(config.output_dir) / name).is_dir():
            earlier = name.split("/")[0]
            raise ValueError(
                f"`stage` must be {earlier} first, or all, but was {config.stage}: {config.output_dir} has no {name}."
            )


def read_split(config: Config, split: str) -> SegmentationSplit:
    """A split of the data set, in memory."""
    rows = open_split(config.dataset, split, config.sample_size, config.data_dir, config.num_classes)
    bar = tqdm(rows, desc=f"{split} images", disable=not PartialState().is_local_main_process)
    return load_split(bar, config.num_channels, config.sample_size, config.num_classes, config.stretch)


def train_autoencoder(stage: MaskAutoencoderStage | ImageAutoencoderStage, config: Config, total_steps: int):
    """Trains an autoencoder, measures its latents, and saves it to `output_dir/STAGE/model`."""
    fit(stage, config, total_steps, config.vae_learning_rate, config.batch_size)
    if config.scale_latents:
        stage.measure_latents()
    save_model(stage.module, Path(config.output_dir) / stage.name / "model")


def load_image_encoder(config: Config, factor: int) -> MedSegLatDiffVAE | MedSegLatDiffImageEncoder:
    """The image autoencoder that was trained before, or an image encoder where `config.image_encoder` is given, from
    published weights where its backbone has any."""
    if config.image_encoder is None:
        return MedSegLatDiffVAE.from_pretrained(Path(config.output_dir) / "image_vae" / "model")
    options = {"in_channels": config.num_channels, "downsampling_factor": factor, "num_classes": config.num_classes}
    encoder = MedSegLatDiffImageEncoder(**{**options, **config.image_encoder})
    encoder.load_pretrained_weights()
    return encoder


def load_start(start: str | Path) -> tuple[MedSegLatDiffPipeline, dict[str, dict], dict]:
    """A pipeline to train on, its stages so far, and what was chosen for its weights and is dropped."""
    folder, state = start_folder(str(start)), PartialState()
    pipeline = MedSegLatDiffPipeline.from_pretrained(start)
    dropped = drop_choices(pipeline, folder)
    if dropped:
        state.print(f"{start} was calibrated for its weights; until the new ones are, set back: {', '.join(dropped)}")
    return pipeline.to(state.device), stages_of(folder), dropped


def train_denoiser(run: Run, folder: Path):
    """Trains the denoiser of a new pipeline, or that of `start_from` on, and saves the pipeline to `folder`."""
    config = run.config
    if config.start_from:
        pipeline, earlier, dropped = load_start(config.start_from)
    else:
        mask_vae = MedSegLatDiffVAE.from_pretrained(run.output_dir / "mask_vae" / "model")
        pipeline = untrained_pipeline(config, mask_vae, load_image_encoder(config, mask_vae.downsampling_factor))
        earlier, dropped = read_stages(run.output_dir, "mask_vae", "image_vae"), {}
    stage = DenoiserStage(config, run.train, run.validation, pipeline.to(PartialState().device))
    fit(stage, config, config.unet_steps, config.unet_learning_rate, config.batch_size, run.publisher)
    run.save(stage.pipeline(), folder, earlier, "unet", dropped)


def train_energy(run: Run, start: Path | str):
    """Trains the sampler of the pipeline at `start` on, and saves it as the run's pipeline."""
    config, (pipeline, earlier, dropped) = run.config, load_start(start)
    stage = EnergyStage(config, run.train, run.validation, pipeline)
    fit(stage, config, config.energy_steps, config.energy_learning_rate, config.energy_batch_size, run.publisher)
    run.save(stage.pipeline(), run.output_dir / "pipeline", earlier, "energy", dropped)


def train_mask_decoder(run: Run, start: str):
    """Trains the mask decoder of the pipeline at `start` on, and saves that with it: no other weights of it change."""
    config, (pipeline, earlier, dropped) = run.config, load_start(start)
    stage = MaskDecoderStage(config, run.train, run.validation, pipeline)
    fit(stage, config, config.mask_vae_steps, config.vae_learning_rate, config.batch_size)
    pipeline.register_to_config(**pipeline_settings(config))
    run.save(pipeline, run.output_dir / "pipeline", earlier, "mask_decoder", dropped)


def train_stages(run: Run, stages: list[str]) -> Path:
    """Trains these stages, the others' results being read from `output_dir`; returns what the last wrote."""
    config, splits = run.config, (run.train, run.validation)
    pipeline = run.output_dir / "pipeline"
    denoised = run.output_dir / "unet" / "pipeline" if config.energy_steps else pipeline
    set_seed(config.seed)
    for name in stages:
        if name == "mask_vae":
            train_autoencoder(MaskAutoencoderStage(config, *splits), config, config.mask_vae_steps)
        elif name == "image_vae":
            train_autoencoder(ImageAutoencoderStage(config, *splits), config, config.image_vae_steps)
        elif name == "unet":
            train_denoiser(run, denoised)
        elif name == "energy":
            train_energy(run, (config.start_from if config.stage == "energy" else None) or denoised)
        elif config.start_from:  # the stage mask_decoder always has one
            train_mask_decoder(run, config.start_from)
    if name in ("mask_vae", "image_vae"):
        return run.output_dir / name / "model"
    return denoised if name == "unet" else pipeline


def run(config: Config, given: Collection[str] | None = None):
    """Runs the stages that `config.stage` names; the others' results are read from `output_dir`.

    Args:
        given: names of the settings that somebody gave, the others being defaults (see `inheritance.inherit`).
    """
    # 1. what may be refused is refused before anything is read or written
    config = inherit(config, given)
    config = dataclasses.replace(config, mixed_precision=resolve_precision(config.mixed_precision))
    check_models(config)
    stages, output_dir = stage_names(config), Path(config.output_dir)
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.is_main_process:
        check_free(output_dir)
    check_earlier(config, stages)
    for name in stages:
        checkpoint_to_resume(output_dir / name, config, state.num_processes)
    use_threads(state.num_processes)
    publisher = None
    if config.push_to_hub and config.hub_model_id and state.is_main_process:
        publisher = Publisher(config.hub_model_id, output_dir)
    with holding(output_dir) if state.is_main_process else nullcontext():
        # 2. data
        train, validation = (read_split(config, split) for split in ("train", "validation"))
        # 3. stages
        if state.is_main_process:
            sweep(output_dir)  # what a kill left
            write_json(output_dir / "config.json", dataclasses.asdict(config))
        folder = train_stages(Run(config, train, validation, publisher), stages)
        if publisher and folder == output_dir / "pipeline":
            publisher.publish_last(folder)
    state.print(f"Saved to {folder}")
    if folder == output_dir / "pipeline":
        command = ["medseglatdiff", "calibrate", "--pipeline", str(folder), "--dataset", config.dataset]
        state.print(f"Next: {shlex.join(command)}")
    state.destroy_process_group()


def main(arguments: list[str] | None = None):
    """`medseglatdiff train`."""
    end_with_launcher()
    given = given_settings(arguments)
    run(Config(**given), given)
