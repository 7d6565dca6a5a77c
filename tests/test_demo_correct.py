"""Correcting by clicks, sessions, names and colours: without a browser."""

import doctest
from itertools import combinations

import numpy as np
import pytest
from conftest import tiny_pipeline
from demo_fixtures import dicom, phantom_png

from medseglatdiff.demo import limits, model_names
from medseglatdiff.demo.app import load_pipelines
from medseglatdiff.demo.example_images import CAPTIONS, EXAMPLES
from medseglatdiff.demo.limits import InputError, read_upload
from medseglatdiff.demo.pictures import COLOURS, smooth_mask, view_of
from medseglatdiff.demo.sampling import CHUNK, FEWEST, ROUNDS, Job, Segmentation
from medseglatdiff.demo.sessions import MOST, Sessions


def sampled(num_masks: int = CHUNK, **options) -> Job:
    job = Job(read_upload(phantom_png(), stretch=False), tiny_pipeline(**options), "tiny", num_masks, 1, 3)
    list(job.sample())
    return job


def pixel_of_share(job: Job, least: int, most: int) -> tuple[int, int]:
    """A pixel that from `least` to `most` of the candidates hold."""
    count = job.pipeline.select(job.candidates, job.num_drawn).masks[0].sum(axis=0)  # [H, W]
    y, x = np.argwhere((count >= least) & (count <= most))[0]
    return int(x), int(y)


def test_more_are_drawn_where_few_fit_and_all_that_is_shown_fits():
    job = sampled()
    x, y = pixel_of_share(job, 1, FEWEST - 1)
    job.clicks.append((x, y, True))
    segmentation = list(job.correct())[-1]
    assert job.num_drawn > CHUNK and job.num_drawn == CHUNK * job.rounds and job.rounds <= 1 + ROUNDS
    assert isinstance(segmentation, Segmentation) and segmentation.masks[:, y, x].all()
    expected = job.pipeline.select(job.candidates, CHUNK, inside=[[(x, y)]])
    np.testing.assert_array_equal(segmentation.masks, expected.masks[0])
    # each round is what the pipeline draws with the seed after the last one's
    again = job.pipeline.sample([job.upload.image], 1, seed=4, batch_size=CHUNK, num_candidates=CHUNK)
    np.testing.assert_array_equal(job.candidates.latents[:, CHUNK : 2 * CHUNK], again.latents)


def test_no_more_are_drawn_where_enough_fit():
    job = sampled(num_masks=2 * CHUNK)
    x, y = pixel_of_share(job, FEWEST, 2 * CHUNK - 1)
    job.clicks.append((x, y, True))
    assert len(list(job.correct())) == 1 and job.rounds == 1


def test_clicks_that_nothing_fits_are_told():
    job = sampled()
    job.clicks += [(5, 5, True), (5, 5, False)]
    with pytest.raises(InputError, match=f"None of {CHUNK * (1 + ROUNDS)} candidates fits all your points"):
        list(job.correct())


def test_clicks_outside_the_window_are_told():
    job = Job(read_upload(phantom_png(), False), tiny_pipeline(region_size=16), "t", 4, 1, 0, region=(20, 20))
    list(job.sample())
    job.clicks.append((2, 2, True))
    with pytest.raises(InputError, match="Please click inside the frame"):
        list(job.correct())


def test_the_region_of_a_photo_that_is_shown_smaller(monkeypatch):
    monkeypatch.setattr(limits, "MAX_RESULT_PIXELS", 20 * 24)
    upload = read_upload(phantom_png(), stretch=False)
    assert upload.size == (40, 48) and upload.image.shape == (20, 24, 1)
    pipeline = tiny_pipeline(region_size=16)
    job = Job(upload, pipeline, "t", 4, 1, 0, region=(24, 20))
    list(job.sample())
    expected = pipeline.sample(
        [upload.source()], 1, seed=0, batch_size=CHUNK, num_candidates=job.num_candidates, regions=[(24, 20)]
    )
    np.testing.assert_array_equal(job.candidates.latents, expected.latents)  # the model saw the original
    assert job.finish().masks.shape == (4, 20, 24)
    assert [value * 2 for value in job.window] == pytest.approx(list(expected.windows[0]), abs=1)


def test_large_images_need_a_region_only_where_the_model_was_trained_on_crops():
    for region_size, region, message in ((16, None, "trained on crops of 16 x 16"), (32, None, ""), (16, (3, 3), "")):
        job = Job(
            read_upload(phantom_png(), False), tiny_pipeline(region_size=region_size), "t", 4, 1, 0, region=region
        )
        if message:
            with pytest.raises(InputError, match=message):
                job.check_region()
        else:
            job.check_region()


def test_sessions_expire_and_are_few():
    clock = [0.0]
    sessions = Sessions(60, now=lambda: clock[0])
    first = sessions["a"]
    first.job = job = sampled(num_masks=1)
    job.cancelled.clear()
    assert sessions["a"] is first
    clock[0] = 61
    assert sessions["b"] is not first and job.cancelled.is_set() and list(sessions.sessions) == ["b"]
    for number in range(MOST + 5):
        sessions[number]
    assert len(sessions.sessions) == MOST and "b" not in sessions.sessions
    sessions.stop()
    assert not sessions.sessions


def lab(colour: tuple[int, int, int]) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour, under D65."""
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / np.array([0.9505, 1, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_sixteen_colours_are_far_apart_and_none_is_that_of_the_consensus():
    assert len(COLOURS) == 16
    distances = [np.linalg.norm(lab(a) - lab(b)) for a, b in combinations([*COLOURS, (255,) * 3, (0,) * 3], 2)]
    assert min(distances) > 15


def test_outlines_are_smooth_and_a_single_pixel_stays():
    dot, corner = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    dot[4, 4], corner[:5, :5] = True, True
    assert smooth_mask(dot, (180, 180)).any()
    grown = smooth_mask(corner, (180, 180))
    assert grown[:60, 99].all() and not grown[:60, 100].any()  # a straight border stays where it is
    assert not grown[99, 99]  # a corner is rounded


def test_a_view_finds_its_way_back():
    found = np.zeros((100, 200), bool)
    found[40:60, 100:120] = True
    view = view_of((100, 200), found)
    for point in ((100.0, 40.0), (119.0, 59.0), (105.0, 50.0)):
        x, y = view.place(*point)
        assert view.point(x - 0.5, y - 0.5) == point


def test_names_stay_apart_and_tell_of_no_patient(tmp_path):
    assert doctest.testmod(model_names).failed == doctest.testmod(limits).failed == 0
    assert limits.safe_name("Mustermann.dcm", is_dicom=True) == "dicom"
    assert model_names.human_names(["a-isic2018", "b-isic2018"]) == [
        "Skin lesions in photographs (a-isic2018)",
        "Skin lesions in photographs (b-isic2018)",
    ]
    for name in ("one", "two"):
        tiny_pipeline().save_pretrained(tmp_path / name / "pipeline")
    pipelines, _ = load_pipelines([str(tmp_path / name / "pipeline") for name in ("one", "two")])
    assert list(pipelines) == ["one/pipeline", "two/pipeline"]
    assert set(CAPTIONS) == {path.name for path in EXAMPLES} and CAPTIONS["nodule-small.png"] == "small nodule"
    assert read_upload(dicom(), False).dicom
