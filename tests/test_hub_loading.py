"""A checkpoint loads whole and safely, or not at all: what `from_pretrained` refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_unet
from safetensors.torch import load_file, save_file

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE

WEIGHTS = "diffusion_pytorch_model.safetensors"


def edit_weights(path: Path, edit):
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def pickle_instead(folder: Path):
    weights = load_file(folder / "unet" / WEIGHTS)
    torch.save(weights, folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "unet" / WEIGHTS).unlink()


def pickle_in_disguise(folder: Path):
    pickle_instead(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").rename(folder / "unet" / WEIGHTS)


def truncate(folder: Path):
    path = folder / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def forget_a_component(folder: Path):
    index = json.loads((folder / "model_index.json").read_text())
    del index["mask_vae"]
    (folder / "model_index.json").write_text(json.dumps(index))


FAULTS = {
    "missing folder": (lambda f: shutil.rmtree(f / "unet"), "MedSegLatDiffUNet cannot be loaded"),
    "missing file": (lambda f: (f / "unet" / WEIGHTS).unlink(), f"no file named {WEIGHTS}"),
    "missing entry": (forget_a_component, "must name every component, but lacks 'mask_vae'"),
    "truncated": (truncate, "MedSegLatDiffUNet cannot be loaded: Unable to load weights"),
    "pickle": (pickle_instead, f"no file named {WEIGHTS}"),
    "pickle in disguise": (pickle_in_disguise, "MedSegLatDiffUNet cannot be loaded: Unable to load weights"),
    "missing tensor": (
        lambda f: edit_weights(f / "unet" / WEIGHTS, lambda weights: weights.pop("conv_out.bias")),
        r"must be those of this MedSegLatDiffUNet, but have 1 missing tensors: conv_out\.bias\.",
    ),
    "additional tensor": (
        lambda f: edit_weights(f / "unet" / WEIGHTS, lambda weights: weights.update(stray=torch.zeros(1))),
        "1 unexpected tensors: stray",
    ),
    "other shape": (
        lambda f: edit_weights(
            f / "unet" / WEIGHTS, lambda weights: weights.update({"conv_out.bias": torch.zeros(2)})
        ),
        "(?s)conv_out.bias.*shape",
    ),
    "weights of another model": (
        lambda f: shutil.copy(f / "mask_vae" / WEIGHTS, f / "unet" / WEIGHTS),
        r"must be those of this MedSegLatDiffUNet, but have \d+ missing tensors",
    ),
    "config of another model": (
        lambda f: shutil.copy(f / "mask_vae" / "config.json", f / "unet" / "config.json"),
        "`config` must be of a MedSegLatDiffUNet, but was of a MedSegLatDiffVAE",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_checkpoint_is_refused(pipeline, tmp_path, fault):
    break_it, message = FAULTS[fault]
    pipeline.save_pretrained(tmp_path)
    break_it(tmp_path)
    with pytest.raises((OSError, ValueError), match=message):
        MedSegLatDiffPipeline.from_pretrained(tmp_path)


def test_weights_in_shards_load_whole_or_not_at_all(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path, max_shard_size="50KB")
    shards = sorted(tmp_path.glob("*-of-*.safetensors"))
    loaded = MedSegLatDiffUNet.from_pretrained(tmp_path)
    assert len(shards) > 2
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in unet.state_dict().items())
    shards[0].unlink()
    with pytest.raises(OSError, match=f"MedSegLatDiffUNet cannot be loaded: .*{shards[0].name}"):
        MedSegLatDiffUNet.from_pretrained(tmp_path)


def test_pickle_is_refused_even_if_asked_for(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    pickle_instead(tmp_path)
    with pytest.raises(ValueError, match="`use_safetensors` must not be False"):
        MedSegLatDiffPipeline.from_pretrained(tmp_path, use_safetensors=False)


def test_models_of_other_classes_do_not_mix(tmp_path):
    tiny_unet().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`config` must be of a MedSegLatDiffVAE"):
        MedSegLatDiffVAE.from_pretrained(tmp_path)


def test_a_subclass_loads_its_parents_checkpoint(tmp_path):
    class Mine(MedSegLatDiffUNet):
        pass

    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    mine = Mine.from_pretrained(tmp_path)
    assert all(torch.equal(value, mine.state_dict()[name]) for name, value in unet.state_dict().items())


def test_loading_without_accelerate_refuses_missing_tensors_too(tmp_path):
    tiny_unet().save_pretrained(tmp_path)
    edit_weights(tmp_path / WEIGHTS, lambda weights: weights.pop("conv_out.bias"))
    with pytest.raises(ValueError, match="1 missing tensors"):
        MedSegLatDiffUNet.from_pretrained(tmp_path, low_cpu_mem_usage=False)
