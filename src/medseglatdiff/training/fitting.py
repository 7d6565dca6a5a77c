"""The training loop of every stage: optimise, average, validate, keep the best weights, save, resume."""

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .config import Config
from .precision import resolve_precision
from .progress import Progress
from .publishing import Publisher
from .saving import latest_checkpoint, save_checkpoint, write_json
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
    steps = steps_until_the_end(progress.step, total_steps, 60 * progress.wall_hours, minutes)
    return int(broadcast(torch.tensor(steps, device=accelerator.device)))


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
    """Trains one stage to its last step, or as long as `config.minutes` allow, and leaves its best weights (of the
    moving average) in `stage.module`."""
    # 1. set up
    folder = Path(config.output_dir) / stage.name
    checkpoint = latest_checkpoint(folder, config.resume)
    accelerator = Accelerator(
        mixed_precision=resolve_precision(config.mixed_precision),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.tracker,
        project_dir=folder,
    )
    folder.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("logs")
    parameters = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=config.weight_decay)
    end = total_steps  # which the clock may bring forward
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.warmup_steps, end)
    )
    ema, progress = EMAModel(parameters, decay=config.ema_decay), Progress(accelerator.num_processes)
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    accelerator.register_for_checkpointing(schedule, ema, progress)
    # 2. resume
    if checkpoint:
        accelerator.load_state(str(checkpoint))
    ema.to(accelerator.device)  # after loading, which leaves it on the CPU
    end = last_step(progress, total_steps, config.minutes, accelerator)
    if accelerator.is_main_process and progress.step < end:
        write_json(folder / "config.json", dataclasses.asdict(config))
    # 3. train
    module.train()
    progress.add_time()
    bar = tqdm(total=end, initial=progress.step, desc=stage.name, disable=not accelerator.is_local_main_process)
    while progress.step < end:
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
        bar.total = end = last_step(progress, total_steps, config.minutes, accelerator)
        # 4. log, validate, save
        measures = {"loss": accelerator.reduce(torch.stack(losses).mean(), "mean").item()}
        measures["learning_rate"] = schedule.get_last_lr()[0]
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
