"""Trains mask autoencoder, image autoencoder, denoiser and at last the whole sampler, and saves a pipeline.

    accelerate launch training/train.py
    accelerate launch training/train.py --config training/configs/lidc_idri.json [--stage unet] [--resume]

Every file of a run lies in its `output_dir`: a folder per stage with `checkpoint-N`, `best.safetensors`, the
finished models and the tracker's logs, and at the end `pipeline/`, which `MedSegLatDiffPipeline.from_pretrained`
loads.
"""

import dataclasses
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, set_seed

from ..data.splits import load_split, open_split
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .autoencoders import ImageAutoencoderStage, MaskAutoencoderStage, MaskDecoderStage
from .checks import check_models
from .config import Config
from .denoiser import DenoiserStage, untrained_pipeline
from .energy import EnergyStage
from .fitting import fit
from .launcher import use_threads
from .parsing import parse_config
from .precision import resolve_precision
from .publishing import Publisher
from .saving import (
    earlier_stages,
    save_atomically,
    save_pipeline,
    summaries,
    with_models_of_start,
    with_stage,
    write_json,
)
from .stages import Stage


def train_autoencoder(stage: Stage, config: Config, total_steps: int) -> MedSegLatDiffVAE:
    """Trains an autoencoder, measures its latents, and saves it to `output_dir/STAGE/model`."""
    fit(stage, config, total_steps, config.vae_learning_rate, config.batch_size)
    if config.scale_latents:
        stage.measure_latents()
    save_atomically(stage.module, Path(config.output_dir) / stage.name / "model")
    return stage.module


def load_image_encoder(config: Config, factor: int) -> MedSegLatDiffVAE | MedSegLatDiffImageEncoder:
    """The image autoencoder that was trained before, or an image encoder where `config.image_encoder` is given, from
    published weights where its backbone has any."""
    if config.image_encoder is None:
        return MedSegLatDiffVAE.from_pretrained(Path(config.output_dir) / "image_vae" / "model")
    options = {"in_channels": config.num_channels, "downsampling_factor": factor, "num_classes": config.num_classes}
    encoder = MedSegLatDiffImageEncoder(**{**options, **config.image_encoder})
    encoder.load_pretrained_weights()
    return encoder


def train_denoiser(config: Config, train, validation, folder: Path, publisher: Publisher | None):
    """Trains the denoiser of a new pipeline, or that of `start_from` on, and saves the pipeline to `folder`."""
    output_dir = Path(config.output_dir)
    if config.start_from:
        pipeline = MedSegLatDiffPipeline.from_pretrained(config.start_from)
        stages = earlier_stages(config.start_from, config)
    else:
        mask_vae = MedSegLatDiffVAE.from_pretrained(output_dir / "mask_vae" / "model")
        pipeline = untrained_pipeline(config, mask_vae, load_image_encoder(config, mask_vae.downsampling_factor))
        stages = summaries(config, "mask_vae", "image_vae")
    stage = DenoiserStage(config, train, validation, pipeline.to(PartialState().device))
    fit(stage, config, config.unet_steps, config.unet_learning_rate, config.batch_size, publisher)
    rows = {"train": len(train), "validation": len(validation)}
    save_pipeline(stage.pipeline(), config, folder, rows, with_stage(stages, config, "unet"))


def train_mask_decoder(config: Config, train, validation):
    """Trains the mask decoder of `start_from` on, and saves that pipeline with it: nothing else of it changes."""
    pipeline = MedSegLatDiffPipeline.from_pretrained(config.start_from).to(PartialState().device)
    stage = MaskDecoderStage(config, train, validation, pipeline)
    fit(stage, config, config.mask_vae_steps, config.vae_learning_rate, config.batch_size)
    rows = {"train": len(train), "validation": len(validation)}
    stages = with_stage(earlier_stages(config.start_from, config), config, "mask_decoder")
    save_pipeline(pipeline, config, Path(config.output_dir) / "pipeline", rows, stages)


def train_energy(config: Config, train, validation, start: Path | str, publisher: Publisher | None):
    """Trains the sampler of the pipeline at `start` on, and saves it as the run's pipeline."""
    pipeline = MedSegLatDiffPipeline.from_pretrained(start).to(PartialState().device)
    stage = EnergyStage(config, train, validation, pipeline)
    fit(stage, config, config.energy_steps, config.energy_learning_rate, config.energy_batch_size, publisher)
    rows = {"train": len(train), "validation": len(validation)}
    output_dir = Path(config.output_dir)
    stages = with_stage(earlier_stages(start, config), config, "energy")
    save_pipeline(stage.pipeline(), config, output_dir / "pipeline", rows, stages)


def run(config: Config):
    """Runs the stages that `config.stage` names; the others' results are read from `output_dir`."""
    precision = resolve_precision(config.mixed_precision)
    config = dataclasses.replace(with_models_of_start(config), mixed_precision=precision)
    check_models(config)
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.is_main_process:
        write_json(output_dir / "config.json", dataclasses.asdict(config))
    use_threads(state.num_processes)
    publisher = Publisher(config) if config.push_to_hub and state.is_main_process else None
    # 1. data
    shape = (config.num_channels, config.sample_size, config.num_classes, config.stretch)
    train, validation = (
        load_split(open_split(config.dataset, split, config.sample_size, config.data_dir, config.num_classes), *shape)
        for split in ("train", "validation")
    )
    # 2. mask autoencoder
    set_seed(config.seed)
    if config.stage in ("mask_vae", "all") and not config.start_from:
        stage = MaskAutoencoderStage(config, train, validation)
        train_autoencoder(stage, config, config.mask_vae_steps)
    # 3. image autoencoder
    if config.stage in ("image_vae", "all") and not config.start_from and config.image_encoder is None:
        stage = ImageAutoencoderStage(config, train, validation)
        train_autoencoder(stage, config, config.image_vae_steps)
    # 4. denoiser and condition
    denoised = output_dir / "unet" / "pipeline" if config.energy_steps else output_dir / "pipeline"
    if config.stage in ("unet", "all"):
        train_denoiser(config, train, validation, denoised, publisher)
    # 5. the sampler as a whole, or the mask decoder alone
    if config.energy_steps and config.stage in ("energy", "all"):
        start = config.start_from if config.stage == "energy" else None
        train_energy(config, train, validation, start or denoised, publisher)
    if config.stage == "mask_decoder":
        train_mask_decoder(config, train, validation)
    finished = "energy" if config.energy_steps else "unet"  # the stage after which there is a pipeline to publish
    if publisher and config.stage in (finished, "mask_decoder", "all"):
        publisher.publish_last(output_dir / "pipeline")
    state.destroy_process_group()


def main(arguments: list[str] | None = None):
    """`medseglatdiff train`."""
    run(parse_config(arguments))
