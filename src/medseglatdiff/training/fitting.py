"""The training loop of every stage: optimise, average, validate, keep the best weights, save, resume."""

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from tqdm import tqdm

from ..data.files import replacing, sweep, write_json
from ..models.modeling import weights_sha256
from .checkpoints import BEST, Training, restore, save_checkpoint, save_tensors
from .config import Config
from .precision import resolve_precision
from .progress import Progress
from .publishing import Publisher
from .records import settings_record, write_stage
from .resuming import checkpoint_to_resume
from .schedule import learning_rate_factor, steps_until_the_end
from .stages import PipelineStage, Stage


def validate(stage: Stage, accelerator: Accelerator) -> dict[str, float]:
    """Means of the stage's validation measures over its rows, which the processes share out."""
    rows = stage.validation_rows()
    stage.module.eval()
    with torch.no_grad():
        results = gather_object(stage.validate(rows[accelerator.process_index :: accelerator.num_processes]))
    stage.module.train()
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}


def last_step(progress: Progress, total_steps: int, minutes: float | None, accelerator: Accelerator) -> int:
    """`steps_until_the_end`, by the clock of the main process, so that all processes end together."""
    if minutes is None:  # the processes need not talk about it
        return total_steps
    steps = steps_until_the_end(progress.step, total_steps, 60 * progress.wall_hours, minutes)
    return int(broadcast(torch.tensor(steps, device=accelerator.device)))


def check_finite(loss: float, stage: str, step: int):
    """Raises a `ValueError` for a loss from which nothing can be learned any more."""
    if not math.isfinite(loss):
        raise ValueError(
            f"The loss of {stage} was {loss} at step {step}: a lower learning rate, a longer warm-up or "
            "`--mixed-precision no` may help."
        )


def keep_best(stage: Stage, accelerator: Accelerator, progress: Progress, folder: Path) -> dict[str, float]:
    """Validates the weights in place and writes them to best.safetensors if none before had a better score."""
    measures = validate(stage, accelerator)
    if measures["score"] <= progress.best_score:
        progress.best_score, progress.best_step = measures["score"], progress.step
        if accelerator.is_main_process:
            with replacing(folder / BEST) as partial:
                save_tensors(stage.module.state_dict(), partial)
    return {f"validation/{name}": value for name, value in measures.items()}


def fit(
    stage: Stage,
    config: Config,
    total_steps: int,
    learning_rate: float,
    batch_size: int,
    publisher: Publisher | None = None,
):
    """Trains one stage to its last step, or as long as `config.minutes` allow, and leaves its best weights (of the
    moving average) in `stage.module`."""
    # 1. set up
    folder = Path(config.output_dir) / stage.name
    accelerator = Accelerator(
        mixed_precision=resolve_precision(config.mixed_precision),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.tracker,
        project_dir=folder,
    )
    checkpoint, notice = checkpoint_to_resume(folder, config, accelerator.num_processes)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)  # what a kill left
    accelerator.wait_for_everyone()
    accelerator.init_trackers("logs")
    parameters = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=config.weight_decay)
    ema, progress = EMAModel(parameters, decay=config.ema_decay), Progress(accelerator.num_processes)
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    ema.to(accelerator.device)
    training = Training(stage.module, optimizer, ema, progress, stage.fingerprint(), weights_sha256(*stage.frozen))
    # 2. resume
    if checkpoint:
        accelerator.print(notice or f"{stage.name}: goes on from {checkpoint.name}")
        restore(accelerator, training, checkpoint)
    end = last_step(progress, total_steps, config.minutes, accelerator)  # which the clock may bring forward
    if accelerator.is_main_process and progress.step < end:
        write_json(folder / "config.json", settings_record(config))
    # 3. train
    module.train()
    progress.add_time()
    bar = tqdm(total=end, initial=progress.step, desc=stage.name, disable=not accelerator.is_local_main_process)
    while progress.step < end:
        losses, rate = [], learning_rate * learning_rate_factor(progress.step, config.warmup_steps, end)
        for group in optimizer.param_groups:
            group["lr"] = rate
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
        ema.step(parameters)
        progress.step += 1
        progress.add_time()
        bar.total = end = last_step(progress, total_steps, config.minutes, accelerator)
        # 4. log, validate, save
        measures = {"loss": accelerator.reduce(torch.stack(losses).mean(), "mean").item(), "learning_rate": rate}
        if accelerator.scaler is None:  # which leaves such steps out
            check_finite(measures["loss"], stage.name, progress.step)
        if progress.step % config.validation_every == 0 or progress.step == end:
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
        if progress.step % config.checkpoint_every == 0 or progress.step == end:
            save_checkpoint(accelerator, training, config, folder)
    # 5. the best weights
    bar.close()
    for tracker in accelerator.trackers:
        tracker.finish()
    if accelerator.is_main_process:
        write_stage(folder, progress, config, {"train": len(stage.train), "validation": len(stage.validation)})
    accelerator.wait_for_everyone()
    stage.module.load_state_dict(load_file(folder / BEST))
    stage.module.eval()
    accelerator.print(f"{stage.name}: best validation score {progress.best_score:.4f} at step {progress.best_step}")
    accelerator.free_memory()
