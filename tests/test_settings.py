"""Settings of a run: what is refused and how, the help, presets, and what launchers ask for."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra `train`")

from medseglatdiff.cli import main
from medseglatdiff.training.checks import check_models
from medseglatdiff.training.config import GROUPS, Config
from medseglatdiff.training.launcher import Launcher, launched_precision, threads
from medseglatdiff.training.parsing import PRESETS, parse_config

pytestmark = pytest.mark.filterwarnings("error:::tyro")  # they would stand before the sentence
SOURCE = Path(__file__).parents[1] / "src" / "medseglatdiff" / "training" / "config.py"

# a setting in JSON: the sentence's rule and the value as it is shown
WRONG_JSON = {
    '{"antithetic": "false"}': ("`antithetic` must be a valid boolean", "'false'"),
    '{"resume": 1}': ("`resume` must be a valid boolean", "1"),
    '{"stretch": null}': ("`stretch` must be a valid boolean", "None"),
    '{"seed": "3"}': ("`seed` must be a valid integer", "'3'"),
    '{"seed": true}': ("`seed` must be a valid integer", "True"),
    '{"seed": 3.5}': ("`seed` must be a valid integer", "3.5"),
    '{"seed": -1}': ("`seed` must be greater than or equal to 0", "-1"),
    '{"seed": 9223372036854775808}': ("`seed` must be less than 9223372036854775808", "9223372036854775808"),
    '{"dataset": 3}': ("`dataset` must be a valid string", "3"),
    '{"output_dir": null}': ("`output_dir` must be a valid string", "None"),
    '{"data_dir": ["a"]}': ("`data_dir` must be a valid string", r"\['a'\]"),
    '{"unet_learning_rate": -0.1}': ("`unet_learning_rate` must be greater than 0", "-0.1"),
    '{"vae_learning_rate": 0}': ("`vae_learning_rate` must be greater than 0", "0"),
    '{"energy_learning_rate": NaN}': ("`energy_learning_rate` must be a finite number", "nan"),
    '{"energy_learning_rate": Infinity}': ("`energy_learning_rate` must be a finite number", "inf"),
    '{"unet_learning_rate": true}': ("`unet_learning_rate` must be a valid number", "True"),
    '{"unet_learning_rate": 5}': ("`unet_learning_rate` must be less than or equal to 1", "5"),
    '{"foreground_weight": 0}': ("`foreground_weight` must be greater than 0", "0"),
    '{"foreground_weight": "10"}': ("`foreground_weight` must be a valid number", "'10'"),
    '{"bottleneck_weight": -1e-6}': ("`bottleneck_weight` must be greater than or equal to 0", "-1e-06"),
    '{"ema_decay": 1}': ("`ema_decay` must be less than 1", "1"),
    '{"weight_decay": -0.1}': ("`weight_decay` must be greater than or equal to 0", "-0.1"),
    '{"affine": 1.5}': ("`affine` must be less than or equal to 1", "1.5"),
    '{"max_grad_norm": 0}': ("`max_grad_norm` must be greater than 0", "0"),
    '{"batch_size": 0}': ("`batch_size` must be greater than or equal to 1", "0"),
    '{"warmup_steps": -1}': ("`warmup_steps` must be greater than or equal to 0", "-1"),
    '{"sample_size": 1000000}': ("`sample_size` must be less than or equal to 4096", "1000000"),
    '{"num_channels": 2}': ("`num_channels` must be 1 or 3", "2"),
    '{"num_classes": 300}': ("`num_classes` must be less than or equal to 254", "300"),
    '{"symmetries": 3}': ("`symmetries` must be 1, 2, 4 or 8", "3"),
    '{"energy_masks": 1}': ("`energy_masks` must be greater than or equal to 2", "1"),
    '{"mixed_precision": "fp32"}': ("`mixed_precision` must be 'no', 'bf16' or 'fp16'", "'fp32'"),
    '{"stage": "vae"}': ("`stage` must be 'mask_vae', 'image_vae'", "'vae'"),
    '{"unet": [1]}': ("`unet` must be a valid dictionary", r"\[1\]"),
    '{"unet": {"layers_per_block": "2"}}': ("`unet.layers_per_block` must be a valid integer", "'2'"),
    '{"unet": {"attention": [0]}}': (r"`unet.attention\[0\]` must be a valid boolean", "0"),
    '{"scheduler": {"beta_start": NaN}}': ("`scheduler.beta_start` must be a finite number", "nan"),
    '{"scheduler": {"prediction_type": "x"}}': ("`scheduler.prediction_type` must be 'epsilon'", "'x'"),
    '{"push_to_hub": true}': ("`hub_model_id` must be ORG/NAME with `push_to_hub`", "None"),
    '{"push_best": true, "hub_model_id": "a/b"}': ("`push_to_hub` must be set with `push_best`", "False"),
    '{"stage": "energy", "energy_steps": 0}': ("`energy_steps` must be at least 1 with the stage energy", "0"),
    '{"stage": "mask_vae", "start_from": "a/b"}': ("`stage` must be unet, energy, all or", "'mask_vae'"),
    '{"stage": "mask_decoder"}': ("`start_from` must be a pipeline", "None"),
}
# words of the command line: the sentence
WRONG_WORDS = {
    "--seed abc": "`seed` must be a valid integer, but was 'abc'",
    "--seed 1.0": "`seed` must be a valid integer, but was '1.0'",
    "--seed": "`seed` must be followed by one value, but was followed by none",
    "--seed 1 2": "`seed` must be followed by one value, but was followed by 1 2",
    "--resume yes": "`resume` must be a valid boolean, but was 'yes'",
    "--resume=1": "`resume` must be a valid boolean, but was '1'",
    "--unet-learning-rate -1": "`unet_learning_rate` must be greater than 0, but was -1.0",
    "--unet_learning_rate nan": "`unet_learning_rate` must be a finite number, but was nan",
    "--foreground-weight 0": "`foreground_weight` must be greater than 0, but was 0.0",
    "--batch-size none": "`batch_size` must be a valid integer, but was 'none'",
    "--target majority": "`target` must be 'random_rater' or 'consensus', but was 'majority'",
    "--num-channels three": "`num_channels` must be 1 or 3, but was 'three'",
    "--unet {": "`unet` must be a valid dictionary, but was '{'",
    '--unet {"bad":1}': "`unet` must hold arguments of MedSegLatDiffUNet out of .*, but held `bad`",
    '--unet {"attentions":[true]}': r"`attentions` \(did you mean `attention`\?\)",
    '--mask-vae {"in_channels":2}': "`mask_vae` must hold arguments of MedSegLatDiffVAE .*, but held `in_channels`",
    '--image-encoder {"width":3}': "`image_encoder` must hold .* but held `width`",
    "--sample-sizes 64": r"there was --sample-sizes \(did you mean `sample_size`\?\)",
    "--epochs=3": "must be known settings, but there was --epochs=3",
    "stray": "must be known settings, but there was stray",
    "--config no_such_preset": "`config` must be a JSON file or one of cvc_clinicdb, .*, but was no_such_preset",
    "--config lidc-idri": r"but was lidc-idri \(did you mean `lidc_idri`\?\)",
}
# settings of which each is right by itself, and with which nothing could be trained
UNTRAINABLE = {
    '{"sample_size": 100}': "`sample_size` must be a multiple of 8 here, but was 100",
    '{"sample_size": 48, "image_encoder": {}}': "`sample_size` must be a multiple of 32 here, but was 48",
    '{"unet": {"attention": [true]}}': r"`unet` must describe .* was {'attention': \[True\]}: .*one entry per level",
    '{"unet": {"block_out_channels": [30], "attention": [false]}}': "`unet` .*30.* must be divisible by num_groups",
    '{"mask_vae": {"block_out_channels": [16, 20]}}': "`mask_vae` .*20.* must be divisible by num_groups",
    '{"mask_vae": {"bottleneck": "vqq"}}': "`mask_vae` .* must be 'kl' or 'vq', but was 'vqq'",
    '{"mask_vae": {"latent_channels": 0}}': r"`mask_vae.latent_channels` must lie in \[1, 65536\], but was 0",
    '{"mask_vae": {"block_out_channels": []}}': r"`mask_vae.block_out_channels` must have 1 to 8 entries",
    '{"image_vae": {"block_out_channels": [16]}}': "`image_vae` must make images smaller by 4, .* by 2",
    '{"image_encoder": {"fused_channels": 20}}': "`image_encoder` .*20.* must be divisible by num_groups",
    '{"image_encoder": {"downsampling_factor": 8}}': "`image_encoder` must make images smaller by 4, .* by 8",
    '{"unet": {"layers_per_block": 1000000000}}': r"`unet.layers_per_block` must lie in \[1, 16\], but was 1000000000",
    '{"unet": {"block_out_channels": [60000, 60000, 60000]}}': "`unet` must have at most 1,000,000,000 parameters",
    '{"unet": {"dropout": 2.0}}': "`unet` .*'dropout': 2.0.*between 0 and 1",
    '{"scheduler": {"num_train_timesteps": 1000000000}}': r"`scheduler.num_train_timesteps` must lie in \[2, 10000\]",
    '{"scheduler": {"num_train_timesteps": 5}}': "`default_num_inference_steps` must be at most 5, .* but was 10",
    '{"scheduler": {"beta_start": -1.0}}': "`scheduler` must let the image's share fall .*'beta_start': -1.0",
    '{"scheduler": {"beta_schedule": "steep"}}': "`scheduler` .*steep",
    '{"start_from": "no/such/folder"}': "`start_from` must be a folder or a Hub id, but .* no folder no/such/folder",
}


def refusal(capsys, *words: str) -> str:
    """The one sentence that `medseglatdiff train` answers wrong words with."""
    assert main(["train", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("text", WRONG_JSON)
def test_a_wrong_setting_in_a_file_is_named_with_rule_and_value(text, tmp_path, monkeypatch, capsys):
    rule, value = WRONG_JSON[text]
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(text)
    line = refusal(capsys, "--config", "run.json")
    assert re.search(f"^medseglatdiff: {rule}.*, but was {value}\\.$", line), line
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(ValueError, match=f"{rule}.*, but was {value}"):
        Config(**json.loads(text))


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_a_wrong_word_on_the_command_line_is_named_with_rule_and_value(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, *words.split())
    assert re.search(WRONG_WORDS[words], line), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", UNTRAINABLE)
def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(text)
    line = refusal(capsys, "--config", "run.json")
    assert re.search(UNTRAINABLE[text], line), line
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


DAMAGED = {
    b"[1, 2]": "`config` must be a JSON object of settings, but run.json is a list",
    b'"all"': "`config` must be a JSON object of settings, but run.json is a str",
    b'{"seed": 1,\n "stage": }': "`config` must be JSON, but run.json is not in line 2, column 11: Expecting value",
    b"": "`config` must be JSON, but run.json is not in line 1, column 1",
    b'{"dataset": "\xff"}': "`config` must be JSON in UTF-8, but run.json is not",
    b'{"batchsize": 3}': r"run.json holds `batchsize` \(did you mean `batch_size`\?\)",
    b'{"zzz": 3}': r"`config` must hold known settings only, but run.json holds `zzz`\.$",
    b'{"seed": 1, "seed": 2}': "run.json holds `seed` twice",
}


@pytest.mark.parametrize("content", DAMAGED, ids=repr)
def test_a_file_that_holds_no_settings_is_named(content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_bytes(content)
    line = refusal(capsys, "--config", "run.json")
    assert re.search(DAMAGED[content], line), line


def test_a_file_that_cannot_be_read_is_named(tmp_path, capsys):
    assert "no.json: No such file" in refusal(capsys, "--config", str(tmp_path / "no.json"))
    assert f"{tmp_path}: Is a directory" in refusal(capsys, "--config", str(tmp_path))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_found_by_name_and_by_path_and_can_be_trained(name):
    config = parse_config(["--config", name])
    assert config == parse_config(["--config", str(PRESETS[name])])
    assert vars(config).items() >= json.loads(PRESETS[name].read_text()).items()
    if config.start_from is None:
        check_models(config)


def test_the_command_line_has_the_last_word(tmp_path):
    (tmp_path / "run.json").write_text('{"seed": 3, "unet_steps": 7, "push_to_hub": true, "foreground_weight": 2}')
    words = ["--config", str(tmp_path / "run.json"), "--unet-steps=9", "--hub_model_id", "a/b", "--resume"]
    config = parse_config([*words, "--foreground-weight", "none", "--scale-latents", "false", "--seed", "4"])
    read = dict(unet_steps=9, hub_model_id="a/b", push_to_hub=True, resume=True, scale_latents=False, seed=4)
    assert config == Config(**read, foreground_weight=None)
    assert parse_config([]) == Config()
    shape = {"block_out_channels": [16], "attention": [False]}
    words = ["--unet", json.dumps(shape), "--resume", "true", "--data-dir", "none", "--seed", "-0", "--affine", ".5"]
    assert parse_config(words) == Config(unet=shape, resume=True, affine=0.5)


def test_help_lists_every_setting_with_its_comment_and_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--config", "lidc_idri", "--help"])
    words = re.sub(r"[│╭╰╮╯─\s]+", " ", capsys.readouterr().out)
    comments = dict(re.findall(r"^    (\w+): .*  # (.*)$", SOURCE.read_text(), flags=re.MULTILINE))
    preset = parse_config(["--config", "lidc_idri"])
    place = 0
    for group in GROUPS:
        place = words.index(group.__doc__, place)
        for entry in dataclasses.fields(group):
            place = words.index(f" --{entry.name.replace('_', '-')} ", place)
            value = getattr(preset, entry.name)
            text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            shown = re.escape(comments[entry.name]) + r" \(default: '?" + re.escape(text) + r"'?\)"
            assert re.match(rf" --\S+ \S+ {shown}", words[place:]), entry.name
    assert len(comments) == len(dataclasses.fields(Config))
    counted = [name for name in comments if name.endswith(("_steps", "_every"))]
    assert counted and all("steps" in comments[name] or "micro-batches" in comments[name] for name in counted)


ACCELERATE = ("/usr/bin/python3", "/usr/bin/accelerate", "launch", "--cpu")
SIXTEEN = {
    "nobody asked": ({}, None, 1, 16),
    "the variable": ({"OMP_NUM_THREADS": "3"}, None, 1, 3),
    "the variable, by nesting level": ({"OMP_NUM_THREADS": "3,2"}, None, 1, 3),
    "no number": ({"OMP_NUM_THREADS": "many"}, None, 1, 16),
    "a share of the processor": ({}, None, 4, 4),
    "more processes than CPUs": ({}, None, 20, 1),
    "the launcher by itself": ({"OMP_NUM_THREADS": "1"}, Launcher(ACCELERATE, {}), 2, 8),
    "its option": ({"OMP_NUM_THREADS": "1"}, Launcher((*ACCELERATE, "--num_cpu_threads_per_process", "1"), {}), 2, 1),
    "with hyphens": ({"OMP_NUM_THREADS": "2"}, Launcher((*ACCELERATE, "--num-cpu-threads-per-process=2"), {}), 2, 2),
    "through the launcher": ({"OMP_NUM_THREADS": "1"}, Launcher(ACCELERATE, {"OMP_NUM_THREADS": "1"}), 2, 1),
}


@pytest.mark.parametrize("case", SIXTEEN)
def test_threads_are_those_asked_for_or_an_equal_share_of_the_cpus(case):
    environment, launcher, processes, expected = SIXTEEN[case]
    assert threads(environment, launcher, 16, processes) == expected


NO, BF16 = {"ACCELERATE_MIXED_PRECISION": "no"}, {"ACCELERATE_MIXED_PRECISION": "bf16"}
PRECISIONS = {
    "no launcher": ({}, None, False, None),
    "the variable": (NO, None, False, "no"),
    "the launcher by itself": (NO, Launcher(ACCELERATE, {}), False, None),
    "its option": (NO, Launcher((*ACCELERATE, "--mixed_precision", "no"), {}), False, "no"),
    "bf16": (BF16, Launcher((*ACCELERATE, "--mixed_precision=bf16"), {}), False, "bf16"),
    "its file": (NO, Launcher((*ACCELERATE, "--config_file", "mine.yaml"), {}), False, "no"),
    "its default file": (NO, Launcher(ACCELERATE, {}), True, "no"),
    "through torchrun": (NO, Launcher(("torchrun",), NO), False, "no"),
}


@pytest.mark.parametrize("case", PRECISIONS)
def test_precision_is_the_launchers_where_somebody_asked_for_it(case):
    environment, launcher, has_file, expected = PRECISIONS[case]
    assert launched_precision(environment, launcher, has_file) == expected


def test_a_precision_that_training_does_not_have_is_an_error():
    with pytest.raises(ValueError, match="`--mixed_precision` of the launcher must be no, bf16 or fp16, but was fp8"):
        launched_precision({"ACCELERATE_MIXED_PRECISION": "fp8"}, None, False)


PROBE = """
import torch
from medseglatdiff.training.launcher import use_threads
from medseglatdiff.training.precision import resolve_precision
use_threads()
print("found", torch.get_num_threads(), resolve_precision(None), resolve_precision("fp16"))
"""


def test_accelerate_launch_is_obeyed(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_cpu_threads_per_process", "3"]
    words = [*launch, "--mixed_precision", "no", str(tmp_path / "probe.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "found 3 no fp16" in done.stdout, done.stderr
