"""Averages the weights of pipelines that were trained on from one start, and saves the pipeline of the mean.

    python training/average.py outputs/one/pipeline outputs/two/pipeline --out outputs/mean/pipeline

Runs from one start end in one valley of the loss, each at a point of its slopes that its own noise chose; the mean of
those points lies deeper, and costs nothing at sampling (model soups, Wortsman et al., arXiv 2203.05482). Whether it
does is for the validation split to say: `training/calibrate.py` measures the mean as it measures any pipeline.
"""

import argparse
import json
from pathlib import Path

import torch
from config import Config
from saving import earlier_stages, save_pipeline
from torch import nn

from medseglatdiff import MedSegLatDiffPipeline


def average_weights(modules: list[nn.Module]):
    """Gives the first module the mean of the weights of all, taken in single precision.

    Raises:
        ValueError: where names or shapes of the weights differ.
    """
    states = [module.float().state_dict() for module in modules]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("`pipelines` must have weights of the same names and shapes, but they differ.")
    mean = {name: torch.stack([state[name] for state in states]).float().mean(0) for name in states[0]}
    modules[0].load_state_dict(mean)


def merge_stages(runs: list[dict[str, dict]]) -> dict[str, dict]:
    """The stages of the common start and, as `run N/STAGE`, the last stage of each run.

    Args:
        runs: `stages` of each pipeline's training.json.

    Raises:
        ValueError: where stages before the last one are not the same.
    """
    # hours are measured: no two trainings share them to the last digit
    starts = [{name: stage["wall_hours"] for name, stage in list(run.items())[:-1]} for run in runs]
    if not starts[0] or any(other != starts[0] for other in starts):
        raise ValueError(
            "`pipelines` must be trained on from the same start and differ in their last stage alone, but their "
            f"training.json has these hours before it: {', '.join(map(str, starts))}."
        )
    merged = {name: runs[0][name] for name in starts[0]}
    for number, run in enumerate(runs, 1):
        last = list(run)[-1]
        merged[f"run {number}/{last}"] = run[last]
    return merged


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders of two or more, as training/train.py saved them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new pipeline")
    options = parser.parse_args(arguments)
    if len(options.pipelines) < 2:
        parser.error(f"`pipelines` must be two or more, but was {len(options.pipelines)}.")
    # 1. how they were trained: settings that differ from the first one's stand beside each run
    training = json.loads((Path(options.pipelines[0]) / "training.json").read_text())
    config = Config(**training["config"])
    stages = merge_stages([earlier_stages(folder, config) for folder in options.pipelines])
    # 2. the mean of their weights
    pipelines = [MedSegLatDiffPipeline.from_pretrained(folder) for folder in options.pipelines]
    for name, component in pipelines[0].components.items():
        if isinstance(component, nn.Module):
            average_weights([pipeline.components[name] for pipeline in pipelines])
    # 3. the pipeline
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_pipeline(pipelines[0], config, options.out, training["rows"], stages)


if __name__ == "__main__":
    main()
