"""The demo's sampling, pictures, words and files, against the pipeline's own output."""

import io
import json
import zipfile
from pathlib import Path

import gradio
import highdicom
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import PAPER_PRESET, tiny_pipeline
from demo_fixtures import EXAMPLES as EXAMPLES_FOLDER
from demo_fixtures import FOLDER, ROOT, SECRET, dicom, phantom_png
from huggingface_hub import SpaceCard

from medseglatdiff.demo import limits, texts
from medseglatdiff.demo.downloads import write_downloads
from medseglatdiff.demo.example_images import EXAMPLES
from medseglatdiff.demo.handlers import Handlers
from medseglatdiff.demo.limits import Upload, read_upload
from medseglatdiff.demo.pictures import colour_of, display_size, draw_outlines, draw_tiles
from medseglatdiff.demo.results import OFF, SKIP, redrawn
from medseglatdiff.demo.sampling import CHUNK, Job, Segmentation
from medseglatdiff.demo.sessions import Session
from medseglatdiff.pipeline.files import mean_pairwise_dice


def run(job: Job) -> Segmentation:
    assert list(job.sample())[-1].done == job.num_candidates
    return job.finish()


def make_job(data: bytes, num_masks: int = 2 * CHUNK + 1, **options) -> Job:
    return Job(read_upload(data, stretch=False), tiny_pipeline(**options), "tiny", num_masks, 3, 7)


CHOSEN = {"symmetries": 8, "default_num_candidates": 3 * CHUNK, "spread": 0.8}


@pytest.mark.parametrize(
    "options", ({}, {"threshold": 0.3}, {"scheduler": PAPER_PRESET}, {"symmetries": 8}, CHOSEN), ids=str
)
def test_samples_are_the_pipelines_own_bit_for_bit(options):
    job = make_job(phantom_png(), **options)
    segmentation = run(job)
    generator = torch.Generator().manual_seed(7)
    expected = job.pipeline(job.upload.image, 2 * CHUNK + 1, 3, generator=generator, batch_size=CHUNK)
    for name in ("masks", "confidence", "uncertainty", "consensus"):
        array = getattr(segmentation, name)
        np.testing.assert_array_equal(array, expected[name][0])
        assert array.dtype == expected[name][0].dtype


def test_progress_comes_chunk_by_chunk():
    reports = list(make_job(phantom_png()).sample())
    assert [report.done for report in reports] == [0, 0, 8, 8, 8, 16, 16, 16, 17]  # three steps each
    assert [round(9 * report.share, 6) for report in reports] == list(range(1, 10))
    assert [len(report.masks) for report in reports[2::3]] == [8, 16, 16] and CHUNK == 8


@pytest.fixture(scope="module")
def from_dicom(tmp_path_factory):
    job = make_job(dicom(), num_masks=3)
    segmentation = run(job)
    return job, segmentation, write_downloads(job, segmentation, tmp_path_factory.mktemp("downloads"))


def test_zip_and_npz_hold_the_masks(from_dicom):
    job, segmentation, files = from_dicom
    with zipfile.ZipFile(files.masks) as archive:
        names = archive.namelist()
        pictures = {name: np.asarray(PIL.Image.open(io.BytesIO(archive.read(name)))) for name in names}
    masks = ["mask-01.png", "mask-02.png", "mask-03.png"]
    assert names == ["confidence.png", "consensus.png", *masks, "uncertainty.png", "overview.png"]
    assert [Path(path).name for path in files[:4]] == [
        "image-masks.zip",
        "image-arrays.npz",
        "image-numbers.json",
        "image-overview.png",
    ]
    masks = np.stack([pictures[f"mask-0{number}.png"] for number in (1, 2, 3)])
    np.testing.assert_array_equal(masks, segmentation.masks * np.uint8(255))
    with np.load(files.arrays) as arrays:
        np.testing.assert_array_equal(arrays["masks"], segmentation.masks)
        np.testing.assert_array_equal(arrays["image"], job.upload.image)
        np.testing.assert_array_equal(arrays["consensus"], arrays["confidence"] >= 0.5)


def test_numbers_are_right_and_name_no_patient(from_dicom):
    job, segmentation, files = from_dicom
    text = Path(files.numbers).read_text()
    numbers = json.loads(text)
    assert numbers["areas_px"] == [int(mask.sum()) for mask in segmentation.masks]
    assert numbers["areas_mm2"] == pytest.approx([area * 0.661468**2 for area in numbers["areas_px"]])
    assert numbers["agreement_mean_pairwise_dice"] == mean_pairwise_dice(segmentation.masks, 1)
    assert numbers["image"] == {
        "size": [128, 128],
        "uploaded_size": [128, 128],
        "pixel_spacing_mm": [0.661468, 0.661468],
    }
    assert numbers["settings"]["seed"] == 7 and "Not a medical device" in numbers["note"]
    for path in files[:4]:
        assert SECRET not in path and SECRET.encode() not in Path(path).read_bytes()


def test_dicom_segmentation_returns_the_masks_and_refers_to_the_image(from_dicom):
    _, segmentation, files = from_dicom
    written = highdicom.seg.segread(files.dicom)
    assert written.number_of_segments == 4
    assert [description.SegmentLabel for description in written.SegmentSequence][:2] == ["Consensus", "Hypothesis 1"]
    source = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    pixels = written.get_pixels_by_source_instance([source])[0]  # [H, W, 4]
    np.testing.assert_array_equal(pixels[..., 0], segmentation.consensus)
    np.testing.assert_array_equal(np.moveaxis(pixels[..., 1:], -1, 0), segmentation.masks)
    assert SECRET in str(written.PatientName)  # it goes back to whoever sent the image, under the patient's name


def test_empty_masks_and_poor_headers(tmp_path):
    job = make_job(dicom(), num_masks=1)
    blank = np.zeros((128, 128), bool)
    run(job)
    nothing = Segmentation(blank[None], blank.astype(np.float32), blank.astype(np.float32), blank, 0.5, 1.0)
    files = write_downloads(job, nothing, tmp_path)
    assert not highdicom.seg.segread(files.dicom).pixel_array.any()
    assert json.loads(Path(files.numbers).read_text())["empty_hypotheses"] == 1
    poor = make_job(dicom(StudyInstanceUID=None), num_masks=1)
    (tmp_path / "poor").mkdir()
    assert write_downloads(poor, run(poor), tmp_path / "poor").dicom is None
    picture = make_job(phantom_png(), num_masks=1)
    (tmp_path / "picture").mkdir()
    assert write_downloads(picture, run(picture), tmp_path / "picture").dicom is None


def test_outlines_are_where_the_masks_are():
    image = np.full((32, 48, 1), 0.5, np.float32)
    masks = np.zeros((2, 32, 48), bool)
    masks[0, 4:10, 4:10], masks[1, 20:28, 30:40] = True, True
    picture = np.asarray(draw_outlines(image, masks, [1]))
    assert picture.shape == (512, 768, 3)  # 16 times the image
    painted = (picture != 128).any(axis=2)
    rows, columns = np.nonzero(painted)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20 * 16, 28 * 16 - 1, 30 * 16, 40 * 16 - 1)
    assert set(map(tuple, picture[painted])) == {colour_of(1)}
    both = np.asarray(draw_outlines(image, masks, [], masks[0]))
    assert set(map(tuple, both.reshape(-1, 3))) == {(128,) * 3, (0, 0, 0), (255, 255, 255)}
    assert not np.array_equal(*draw_tiles(image, masks))


@pytest.mark.parametrize("shape, size", [((128, 128), (768, 768)), ((2000, 1000), (384, 768)), ((1, 4000), (768, 1))])
def test_display_size(shape, size):
    assert display_size(shape) == size


def test_the_models_own_threshold_changes_nothing_and_another_one_moves_the_consensus():
    shares = np.array([[0.0, 2 / 16, 3 / 16, 1.0]], np.float32)  # the slider shows 3/16 as 19 %
    masks = shares[None] > 0.5
    own = Segmentation(masks, shares, shares, shares >= 3 / 16, 3 / 16, 1.0)
    job = make_job(phantom_png(), num_masks=1, threshold=3 / 16)
    session = Session(job.upload, job=job, segmentation=own)
    job.upload = Upload(np.zeros((1, 4, 1), np.float32))
    shown = redrawn(session, [], 19, False)
    assert shown.cards == texts.cards(own, None) and shown.zip == SKIP
    shown = redrawn(session, [], 20, False)
    assert session.segmentation.consensus.tolist() == [[False, False, False, True]] and shown.zip == OFF
    assert session.segmentation.consensus.dtype == bool and "at least 20%" in shown.cards


def test_words_tell_range_threshold_and_empty_hypotheses():
    masks = np.zeros((3, 10, 10), bool)
    masks[0, :2, :2], masks[1, :3, :4] = True, True
    share = masks.mean(axis=0)
    segmentation = Segmentation(masks, share, share, masks[0], 0.25, 1.0)
    text = texts.cards(segmentation, (0.5, 2.0))
    for part in ("0.0 to 12.0 mm²", "over 3 hypotheses, median 4.0 mm²", "<b>4.0 mm²</b>", "at least 25%", "1 of 3"):
        assert part in text
    assert "0 to 12 px" in texts.cards(segmentation, None)
    assert texts.caption(1, masks[1], None) == "2: 12 px, 12.0%" and texts.caption(2, masks[2], None) == "3: empty"
    job = make_job(phantom_png(), 1)
    assert "<script>" not in texts.problem("<script>") + texts.done(job, run(job), "<script>", "")


def test_examples_are_those_of_the_repository():
    ours, theirs = EXAMPLES_FOLDER, ROOT / "examples"
    for path in theirs.iterdir():
        if path.suffix in (".png", ".dcm"):
            assert (ours / path.name).read_bytes() == path.read_bytes()


def test_an_example_brings_its_model_and_that_models_defaults():
    pipelines = {
        "medseglatdiff-isic2018": tiny_pipeline(image_channels=3, default_num_masks=5, default_num_inference_steps=2),
        "medseglatdiff-lidc-idri": tiny_pipeline(default_num_masks=7, default_num_inference_steps=3),
    }
    handlers, chosen, visitor = Handlers(pipelines), {}, gradio.Request(session_hash="a")
    for index, path in enumerate(EXAMPLES):
        event = gradio.SelectData(None, {"index": index, "value": None})
        chosen[path.stem] = handlers.choose_example("medseglatdiff-lidc-idri", 1, 1, visitor, event)
        assert chosen[path.stem][0] == str(path)
    assert chosen["nodule-faint"][1:4] == ("medseglatdiff-lidc-idri", 1, 1)  # as they were set
    assert chosen["skin-mole"][1:4] == ("medseglatdiff-isic2018", 5, 2)
    assert chosen["polyp-long"][1:4] == ("medseglatdiff-lidc-idri", 1, 1)  # no model for polyps is there
    assert len({values[4] for values in chosen.values()}) == len(EXAMPLES)  # each click is a new run


def test_uploads_do_not_print_their_file():
    assert "DICM" not in repr(Upload(np.zeros((1, 1, 1)), None, dicom()))


def test_the_card_of_the_space_tells_the_truth():
    card = SpaceCard.load(FOLDER / "README.md")
    pinned = f"gradio=={card.data.sdk_version}"
    assert (card.data.sdk, card.data.license) == ("gradio", "apache-2.0")
    assert pinned in (ROOT / "constraints.txt").read_text().splitlines()
    assert (FOLDER / card.data.app_file).is_file() and card.data.models and card.data.datasets
    assert pinned in (FOLDER / "requirements.txt").read_text().splitlines()
    for limit in (f"{limits.MAX_FILE_MB} MB", f"{limits.MAX_PIXELS:,} pixels", f"{texts.KEEP_MINUTES} minutes"):
        assert limit in card.text
    assert f"{limits.MAX_MASKS}, {limits.MAX_STEPS}" in card.text and texts.NOT_A_DEVICE.rstrip(".") in card.text
