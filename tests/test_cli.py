"""The command line with a tiny saved pipeline: what it writes, prints, refuses and leaves behind."""

import contextlib
import errno
import io
import os
import re
import resource
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_pipeline

import medseglatdiff
from medseglatdiff import MedSegLatDiffPipeline, cli
from medseglatdiff.cli import COMMANDS, main
from medseglatdiff.metrics import dice
from medseglatdiff.pipeline.cases import case_names
from medseglatdiff.pipeline.files import mean_pairwise_dice


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(model) -> MedSegLatDiffPipeline:
    pipeline = MedSegLatDiffPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def scan(tmp_path) -> Path:
    return save_image(tmp_path / "scan.png")


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (20, 45)) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def segment(*images: Path, model: Path, out: Path, **options) -> int:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return main([str(word) for word in ("segment", *images, "--model", model, "--out", out, *words)])


def expected(pipeline, image: Path, seed: int = 0, **options) -> dict[str, np.ndarray]:
    output = pipeline(image, generator=[torch.Generator().manual_seed(seed)], **options)
    return {name: values[0] for name, values in output.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_png_files_hold_what_the_pipeline_returns_at_the_images_own_size(scan, model, pipeline, tmp_path, capsys):
    assert segment(scan, model=model, out=tmp_path / "deep" / "out", num_masks=4, steps=3, seed=7) == 0
    folder = tmp_path / "deep" / "out" / "scan"
    wanted = expected(pipeline, scan, seed=7, num_masks=4, num_inference_steps=3)
    masks = [np.asarray(PIL.Image.open(folder / f"mask-0{number}.png")) for number in (1, 2, 3, 4)]
    assert np.array_equal(np.stack(masks), wanted["masks"].astype(np.uint8) * 255)
    for name in ("confidence", "uncertainty"):
        assert np.array_equal(np.asarray(PIL.Image.open(folder / f"{name}.png")), (wanted[name] * 255).round())
    assert np.array_equal(np.asarray(PIL.Image.open(folder / "consensus.png")) > 0, wanted["consensus"])
    assert len(contents(folder)) == 4 + 3 + 1 + 1
    told = capsys.readouterr().out
    areas = [str(mask.sum()) for mask in (*wanted["masks"], wanted["consensus"])]
    assert next(line for line in told.splitlines() if "area (px)" in line).split()[2:] == areas
    assert f"{mean_pairwise_dice(wanted['masks'], 1):.2f} (mean pairwise Dice" in told and "mm²" not in told


def test_npz_holds_the_exact_arrays(scan, model, pipeline, tmp_path):
    assert segment(scan, model=model, out=tmp_path / "out", format="npz") == 0
    assert set(contents(tmp_path / "out")) == {"scan/masks.npz", "scan/overview.png", "scan/done.json"}
    with np.load(tmp_path / "out" / "scan" / "masks.npz") as archive:
        for name, array in expected(pipeline, scan).items():
            assert archive[name].dtype == array.dtype and np.array_equal(archive[name], array)


def test_the_overview_shows_image_and_masks(scan, model, tmp_path):
    assert segment(scan, model=model, out=tmp_path / "out") == 0
    with PIL.Image.open(tmp_path / "out" / "scan" / "overview.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert picture.width > 1000 and picture.height > 300
    assert len(np.unique(pixels, axis=0)) > 200 and 0.2 < (pixels == 255).all(axis=1).mean() < 0.9


def test_an_image_is_segmented_alike_whatever_else_is(scan, model, pipeline, tmp_path):
    other = save_image(tmp_path / "other.png", seed=1, size=(33, 16))
    assert segment(other, scan, model=model, out=tmp_path / "out", format="npz") == 0
    with np.load(tmp_path / "out" / "scan" / "masks.npz") as archive:
        assert np.array_equal(archive["masks"], expected(pipeline, scan)["masks"])


def test_images_of_the_same_name_get_folders_of_their_own(model, pipeline, tmp_path):
    images = [save_image(tmp_path / name / "scan.png", seed) for seed, name in enumerate(("a", "b"))]
    assert segment(*images, model=model, out=tmp_path / "out", format="npz") == 0
    for image, name in zip(images, ("scan", "scan-2"), strict=True):
        with np.load(tmp_path / "out" / name / "masks.npz") as archive:
            assert np.array_equal(archive["masks"], expected(pipeline, image)["masks"])
    names = case_names([Path("x.png"), Path("x-2.png"), Path("X.tif"), Path("b/x.png")])
    assert names == ["x", "x-2", "X-3", "b/x"]


def test_other_settings_are_refused_or_replace_the_first_results_and_nothing_else(scan, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(scan, model=model, out=out, num_masks=5) == 0
    (out / "scan" / "notes.txt").write_text("mine")
    before = contents(out)
    assert segment(scan, model=model, out=out, num_masks=2) == 2
    assert "scan was finished with other settings" in (told := capsys.readouterr().err) and "(num_masks)" in told
    assert contents(out) == before
    assert (
        main(["segment", str(scan), "--model", str(model), "--out", str(out), "--num-masks", "2", "--overwrite"]) == 0
    )
    names = set(contents(out / "scan"))
    assert {"notes.txt", "mask-02.png", "overview.png"} <= names and "mask-03.png" not in names


def test_a_full_disk_leaves_nothing_half_written(scan, model, tmp_path, capsys):
    """No file may grow beyond 4 kB, so the masks can be written and the overview cannot."""
    out = tmp_path / "out"
    assert segment(scan, model=model, out=out) == 0
    before = contents(out)
    assert len(before["scan/overview.png"]) > 8000 > 2 * len(before["scan/mask-01.png"])
    other = save_image(tmp_path / "other.png", seed=1)
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        words = ["--model", str(model), "--out", str(out), "--seed", "1", "--overwrite"]
        codes = [main(["segment", str(image), *words]) for image in (scan, other)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert codes == [2, 2] and f"{out / 'other'} cannot be written: " in capsys.readouterr().err
    assert contents(out) == before and [path.name for path in out.iterdir()] == ["scan"]


def test_several_classes_get_labels_and_a_line_each(tmp_path, capsys):
    tiny_pipeline(num_classes=2, image_channels=3).save_pretrained(tmp_path / "model")
    scan = save_image(tmp_path / "scan.png", size=(24, 24))
    assert segment(scan, model=tmp_path / "model", out=tmp_path / "out", num_masks=2) == 0
    labels = np.asarray(PIL.Image.open(tmp_path / "out" / "scan" / "mask-02.png"))
    assert labels.max() <= 2 and (tmp_path / "out" / "scan" / "confidence-02.png").exists()
    told = capsys.readouterr().out
    for k in (1, 2):
        line = next(line for line in told.splitlines() if f"class {k} (px)" in line)
        assert int(line.split()[4]) == (labels == k).sum()


def test_dicom_areas_are_told_in_square_millimetres(model, tmp_path, capsys):
    pytest.importorskip("pydicom", reason="needs the extra `dicom`")
    example = Path(__file__).parents[1] / "examples" / "nodule.dcm"
    assert segment(example, model=model, out=tmp_path / "out") == 0
    lines = {line[:15].strip(): line[15:].split() for line in capsys.readouterr().out.splitlines()}
    pixels, millimetres = (np.array(lines[f"area ({unit})"], float) for unit in ("px", "mm²"))
    assert np.allclose(millimetres, pixels * 0.661468**2, atol=0.05)


def test_info_names_components_and_defaults(model, pipeline, capsys):
    assert main(["info", str(model)]) == 0
    told = capsys.readouterr().out
    lines = {line[:22].strip(): line[22:].split() for line in told.splitlines()}
    assert lines["unet"] == ["MedSegLatDiffUNet", f"{pipeline.unet.num_parameters():,}", "parameters"]
    assert lines["scheduler"] == ["DDIMScheduler"] and lines["sample size"][0] == "32"
    assert lines["default masks"] == lines["of candidates"] == ["3"] and lines["default steps"] == ["2"]


BAD = {
    "missing image": (dict(images=["no/such.png"]), "no/such.png cannot be segmented"),
    "text file": (dict(images=["notes.png"]), "notes.png cannot be segmented: .*cannot identify"),
    "transparent": (dict(images=["transparent.png"]), "transparent.png cannot be segmented: .*must be opaque"),
    "no masks": (dict(num_masks=0), "`--num-masks` must be at least 1, but was 0"),
    "no steps": (dict(steps=-1), "`--steps` must be at least 1, but was -1"),
    "negative seed": (dict(seed=-1), r"`--seed` must lie in \[0, 2\*\*63\), but was -1"),
    "missing model": (dict(model="no/such/model"), "`--model` must be a pipeline's folder or Hub id"),
    "model of another kind": (dict(model="."), "`--model` must be a pipeline's folder or Hub id"),
    "file in the way": (dict(out="notes.png"), "notes.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence_and_writes_nothing(case, scan, model, tmp_path, monkeypatch, capsys):
    options, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.png").write_text("not an image")
    PIL.Image.new("RGBA", (8, 8)).save(tmp_path / "transparent.png")
    before = contents(tmp_path)
    options = {"images": [scan], "model": model, "out": tmp_path / "out", **options}
    assert segment(*options.pop("images"), **options) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("medseglatdiff: ")
    assert re.search(message, told), told
    assert contents(tmp_path) == before


@pytest.mark.parametrize("words", [[], ["segment"], ["segment", "a.png"], ["paint"], ["segment", "--format", "bmp"]])
def test_commands_that_lack_something_explain_themselves(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage: medseglatdiff" in capsys.readouterr().err


def test_an_unknown_command_suggests_the_nearest(capsys):
    for word, hint in {
        "segmnt": "did you mean segment?",
        "eval": "did you mean evaluate?",
        "x": "there are se",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            main([word])
        assert f"there is no {word!r}; {hint}" in capsys.readouterr().err


def test_version_and_help_of_all_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"medseglatdiff {medseglatdiff.__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    for command, extra in COMMANDS.items():
        line = next(line for line in told.splitlines() if line.startswith(f"  {command.__name__} "))
        assert command.__doc__ in line and line.endswith(f"(extra `{extra}`)") == bool(extra)


@pytest.mark.parametrize("command", ["segment", "info"])
def test_help_gives_every_option_a_sentence_with_its_default(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    _, *options = re.split(r" (?=--[a-z])", told.split("show this help message and exit")[1])
    assert len(options) >= {"segment": 6, "info": 0}[command]
    assert [option for option in options if not re.search(r"\w+ \((required|default: [^)]+)\)$", option)] == []


ENDS = {  # what a command raises: the exit code and what stands on stderr, or None for a traceback
    "value": (ValueError("`x` must be 1,\n but was 2."), 2, "medseglatdiff: `x` must be 1, but was 2.\n"),
    "file": (FileNotFoundError(2, "No such file", "a.png"), 2, "medseglatdiff: a.png: No such file\n"),
    "our type": (TypeError("`x` must be an integer, but was 'a'."), 2, "medseglatdiff: `x` must be an integer, "),
    "Ctrl-C": (KeyboardInterrupt(), 130, "medseglatdiff: interrupted\n"),
    "extra": (ModuleNotFoundError("No module", name="tyro.conf"), 2, 'train needs the package tyro: pip install "m'),
    "named extra": (
        ImportError('needs `pip install "medseglatdiff[x]"`'),
        2,
        'needs `pip install "medseglatdiff[x]"`',
    ),
    "full": (
        OSError(errno.ENOSPC, "No space", "/proc/a.png"),
        2,
        "medseglatdiff: no space left on /proc for /proc/a.png",
    ),
    "full, in words": (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "No space left on device"),
    "peer": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "medseglatdiff: [Errno 32] Broken pipe"),
    "their type": (TypeError("unsupported operand"), None, None),
    "our module": (ModuleNotFoundError("No module", name="medseglatdiff.lost"), None, None),
    "attribute": (AttributeError("x"), None, None),
    "assertion": (AssertionError("x"), None, None),
    "key": (KeyError("x"), None, None),
}


@pytest.mark.parametrize("case", ENDS)
def test_how_a_command_ends(case, monkeypatch, capfd):
    error, code, told = ENDS[case]

    def train(arguments: list[str]):
        raise error

    monkeypatch.setattr(cli, "COMMANDS", {train: "train"})
    if code is None:
        with pytest.raises(type(error)):
            main(["train"])
    else:
        assert main(["train"]) == code
        assert told in capfd.readouterr().err


def test_a_full_disk_is_found_behind_the_error_that_it_led_to(tmp_path):
    later = RuntimeError("unexpected pos 64")
    later.__context__ = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))
    assert cli.full_disk(later, []).endswith(f" for {tmp_path / 'file'}")
    assert cli.full_disk(RuntimeError("unexpected pos 64"), []) is None


def test_a_reader_that_leaves_ends_a_command_quietly(model, monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["info", str(model)]) == 141
    assert "medseglatdiff" not in capfd.readouterr().err


def test_an_output_without_space_is_a_mistake(model, monkeypatch, capfd):
    stdout = open("/dev/full", "w")  # noqa: SIM115 (closing it fails, too)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["info", str(model)]) == 2
    assert "No space left on device" in capfd.readouterr().err
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        stdout.close()


def test_an_encoding_without_a_character_does_not_end_a_command(scan, model, tmp_path, monkeypatch):
    image, written = save_image(tmp_path / "größe.png"), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert segment(image, model=model, out=tmp_path / "out", num_masks=1) == 0
    assert f"{tmp_path}/gr??e.png -> ".encode() in written.getvalue()


def test_mean_pairwise_dice_equals_a_loop():
    masks = np.random.default_rng(0).random((5, 6, 7)) < 0.3
    masks[3:] = False  # two empty masks agree
    pairs = [dice(masks[i], masks[j]) for i in range(5) for j in range(i)]
    assert mean_pairwise_dice(masks, 1) == pytest.approx(np.mean(pairs))
    assert mean_pairwise_dice(masks[:1], 1) == 1
    labels = masks.astype(np.uint8) * 2
    assert mean_pairwise_dice(labels, 2) == pytest.approx((1 + np.mean(pairs)) / 2)


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="medseglatdiff")
    assert command.load() is main
