"""Trains mask autoencoder, image autoencoder, denoiser and at last the whole sampler, and saves a pipeline.

    accelerate launch training/train.py
    accelerate launch training/train.py --config training/configs/lidc_idri.json [--stage unet] [--resume]

Every file of a run lies in its `output_dir`: a folder per stage with `checkpoint-N`, `best.safetensors`, the
finished models and the tracker's logs, and at the end `pipeline/`, which `MedSegLatDiffPipeline.from_pretrained`
loads.
"""

import dataclasses
import math
import os
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, parse_flag_from_env, set_seed
from autoencoders import ImageAutoencoderStage, MaskAutoencoderStage
from config import Config, parse_config
from denoiser import DenoiserStage, untrained_pipeline
from diffusers.training_utils import EMAModel
from energy import EnergyStage
from progress import Progress
from publishing import Publisher
from safetensors.torch import load_file, save_file
from saving import (
    earlier_stages,
    latest_checkpoint,
    save_atomically,
    save_checkpoint,
    save_pipeline,
    summaries,
    with_stage,
    write_json,
)
from stages import PipelineStage, Stage
from tqdm import tqdm

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline, MedSegLatDiffVAE
from medseglatdiff.data import load_split, open_split


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(total_steps - warmup_steps, 1)))


def validate(stage: Stage, accelerator: Accelerator) -> dict[str, float]:
    """Means of the stage's validation measures over its rows, which the processes share out."""
    rows = stage.validation_rows()
    stage.module.eval()
    with torch.no_grad():
        results = gather_object(stage.validate(rows[accelerator.process_index :: accelerator.num_processes]))
    stage.module.train()
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}


def keep_best(stage: Stage, accelerator: Accelerator, progress: Progress, folder: Path) -> dict[str, float]:
    """Validates the weights in place and writes them to `best.safetensors` if none before had a better score."""
    measures = validate(stage, accelerator)
    if measures["score"] <= progress.best_score:
        progress.best_score, progress.best_step = measures["score"], progress.step
        if accelerator.is_main_process:
            weights = {name: value.detach().cpu().contiguous() for name, value in stage.module.state_dict().items()}
            save_file(weights, folder / "best.safetensors.partial")
            (folder / "best.safetensors.partial").rename(folder / "best.safetensors")
    return {f"validation/{name}": value for name, value in measures.items()}


def fit(
    stage: Stage,
    config: Config,
    total_steps: int,
    learning_rate: float,
    batch_size: int,
    publisher: Publisher | None = None,
):
    """Trains one stage to its last step and leaves its best weights (of the moving average) in `stage.module`."""
    # 1. set up
    folder = Path(config.output_dir) / stage.name
    checkpoint = latest_checkpoint(folder, config.resume)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.tracker,
        project_dir=folder,
    )
    folder.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("logs")
    parameters = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.warmup_steps, total_steps)
    )
    ema, progress = EMAModel(parameters, decay=config.ema_decay), Progress(accelerator.num_processes)
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    accelerator.register_for_checkpointing(schedule, ema, progress)
    # 2. resume
    if checkpoint:
        accelerator.load_state(str(checkpoint))
    ema.to(accelerator.device)  # after loading, which leaves it on the CPU
    if accelerator.is_main_process and progress.step < total_steps:
        write_json(folder / "config.json", dataclasses.asdict(config))
    # 3. train
    module.train()
    progress.add_time()
    bar = tqdm(
        total=total_steps, initial=progress.step, desc=stage.name, disable=not accelerator.is_local_main_process
    )
    while progress.step < total_steps:
        losses = []
        for part in range(config.gradient_accumulation_steps):
            with accelerator.accumulate(module):
                micro_batch = progress.step * config.gradient_accumulation_steps + part
                start = (micro_batch * accelerator.num_processes + accelerator.process_index) * batch_size
                with accelerator.autocast():
                    loss = stage.loss(module, range(start, start + batch_size), accelerator.device)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
        schedule.step()
        ema.step(parameters)
        progress.step += 1
        progress.add_time()
        # 4. log, validate, save
        measures = {"loss": accelerator.reduce(torch.stack(losses).mean(), "mean").item()}
        measures["learning_rate"] = schedule.get_last_lr()[0]
        if progress.step % config.validation_every == 0 or progress.step == total_steps:
            ema.store(parameters)
            ema.copy_to(parameters)
            measures |= keep_best(stage, accelerator, progress, folder)
            if isinstance(stage, PipelineStage) and accelerator.is_main_process:
                if publisher and config.push_best and progress.best_step == progress.step:
                    publisher.publish_best(stage.pipeline(), progress.step)
                picture = {"samples": stage.picture(stage.validation_rows()[:8])}
                stage.module.train()
                if config.tracker == "tensorboard":
                    accelerator.get_tracker("tensorboard").log_images(picture, step=progress.step, dataformats="NHWC")
            ema.restore(parameters)
        accelerator.log(measures, step=progress.step)
        bar.set_postfix({name.split("/")[-1]: f"{value:.4g}" for name, value in measures.items()})
        bar.update()
        if progress.step % config.checkpoint_every == 0 or progress.step == total_steps:
            save_checkpoint(accelerator, folder, progress.step)
    # 5. the best weights
    bar.close()
    for tracker in accelerator.trackers:
        tracker.finish()
    if accelerator.is_main_process:
        write_json(folder / "summary.json", progress.state_dict())
    accelerator.wait_for_everyone()
    stage.module.load_state_dict(load_file(folder / "best.safetensors"))
    stage.module.eval()
    accelerator.print(f"{stage.name}: best validation score {progress.best_score:.4f} at step {progress.best_step}")
    accelerator.free_memory()


def train_autoencoder(stage: Stage, config: Config, total_steps: int) -> MedSegLatDiffVAE:
    """Trains an autoencoder, measures its latents, and saves it to `output_dir/STAGE/model`."""
    fit(stage, config, total_steps, config.vae_learning_rate, config.batch_size)
    if config.scale_latents:
        stage.measure_latents()
    save_atomically(stage.module, Path(config.output_dir) / stage.name / "model")
    return stage.module


def load_image_encoder(config: Config, factor: int) -> MedSegLatDiffVAE | MedSegLatDiffImageEncoder:
    """The image autoencoder that was trained before, or ImageNet features where `config.image_encoder` is given."""
    if config.image_encoder is None:
        return MedSegLatDiffVAE.from_pretrained(Path(config.output_dir) / "image_vae" / "model")
    options = {"in_channels": config.num_channels, "downsampling_factor": factor, **config.image_encoder}
    encoder = MedSegLatDiffImageEncoder(**options)
    encoder.load_imagenet_weights()
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


def train_energy(config: Config, train, validation, start: Path | str, publisher: Publisher | None):
    """Trains the sampler of the pipeline at `start` on, and saves it as the run's pipeline."""
    pipeline = MedSegLatDiffPipeline.from_pretrained(start).to(PartialState().device)
    stage = EnergyStage(config, train, validation, pipeline)
    fit(stage, config, config.energy_steps, config.energy_learning_rate, config.energy_batch_size, publisher)
    rows = {"train": len(train), "validation": len(validation)}
    output_dir = Path(config.output_dir)
    stages = with_stage(earlier_stages(start, config), config, "energy")
    save_pipeline(stage.pipeline(), config, output_dir / "pipeline", rows, stages)


def main(config: Config):
    """Runs the stages that `config.stage` names; the others' results are read from `output_dir`."""
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.is_main_process:
        write_json(output_dir / "config.json", dataclasses.asdict(config))
    torch.set_num_threads(max(1, os.cpu_count() // state.num_processes))  # `accelerate launch` leaves one thread
    publisher = Publisher(config) if config.push_to_hub and state.is_main_process else None
    # 1. data
    shape = (config.num_channels, config.sample_size, config.num_classes, config.stretch)
    train, validation = (
        load_split(open_split(config.dataset, split, config.sample_size, config.data_dir), *shape)
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
    # 5. the sampler as a whole
    if config.energy_steps and config.stage in ("energy", "all"):
        start = config.start_from if config.stage == "energy" else None
        train_energy(config, train, validation, start or denoised, publisher)
    finished = "energy" if config.energy_steps else "unet"  # the stage after which there is a pipeline to publish
    if publisher and config.stage in (finished, "all"):
        publisher.publish_last(output_dir / "pipeline")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(parse_config())
