"""DICOM Segmentation: masks and confidence as objects that refer to their source images. Needs the extra `volumes`."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .. import __version__
from ..data.files import replacing
from ..data.volumes import Volume
from .finding import FindingResult
from .finding_codes import FINDINGS

# What is copied of the patient and the study: the attributes that PS3.3 demands there (types 1 and 2), but for who
# referred the patient and the order's number, which stay empty (type 2), as do those that the source lacks
IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
WITHHELD = ("AccessionNumber", "ReferringPhysicianName")
IMAGE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns")
PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
FRAMES = ("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
FURTHER = ("SpecificCharacterSet", "ImageType", "SpacingBetweenSlices", "PositionReferenceIndicator")


def write_segmentation(
    path: str | Path,
    sources: Sequence,
    *,
    model: str,
    masks: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    finding: str | None = None,
    keep_all: bool = False,
):
    """Writes masks as a BINARY, or confidence as a FRACTIONAL (probability) DICOM Segmentation, whole or not at all.

    What was written is read back by highdicom and compared before it gets its name. The same content gives the same
    bytes: UIDs follow from it, and dates and times are those of the study.

    Args:
        path (`str` or `Path`): of the file.
        sources (`Sequence[pydicom.Dataset]`): of single frames, one for each slice, or one of a multi-frame image.
        model (`str`): the checkpoint's name, for the algorithm's identification.
        masks (`np.ndarray`, bool `(S, F, H, W)`): segments of all F frames, the consensus first, then hypotheses.
        confidence (`np.ndarray`, float `(F, H, W)`): in [0, 1], stored in steps of 1/255; in place of `masks`.
        finding (`str`, *optional*): what the segments are, a key of `FINDINGS`; a lesion of any kind if `None`.
        keep_all (`bool`, *optional*, defaults to `False`): copy all that the sources say of patient and study. Without
            it, only what the standard demands is copied: no comments, occupation, institution, station or physician.

    Raises:
        ImportError: without the extra `volumes`.
        ValueError: names attributes that the sources lack; for an unknown finding; where it reads back otherwise.
        OSError: if it cannot be written.
    """
    try:
        import highdicom
        from pydicom.uid import generate_uid
    except ImportError as error:
        raise ImportError('DICOM Segmentation needs `pip install "medseglatdiff[volumes]"`.') from error
    if finding not in FINDINGS:
        raise ValueError(f"`finding` must be one of {', '.join(map(repr, FINDINGS))}, but was {finding!r}.")
    given = [values for values in (masks, confidence) if values is not None]
    if len(given) != 1:
        raise ValueError("`masks` or `confidence` must be given, and not both.")
    binary = masks is not None
    # 1. what is said of the sources
    check_sources(sources)
    sources = [copied(source, keep_all) for source in sources]
    values = given[0] if binary else given[0][None]  # [S, F, H, W]
    names = ["Confidence"] if not binary else ["Consensus", *(f"Hypothesis {n}" for n in range(1, len(values)))]
    # 2. the object
    pixels = np.moveaxis(values, 0, -1).astype(np.uint8 if binary else np.float32)  # [F, H, W, S]
    content = [
        *(str(source.SOPInstanceUID) for source in sources),
        model,
        __version__,
        str(finding),
        str(keep_all),
        *names,
    ]
    content.append(hashlib.sha256(pixels.tobytes()).hexdigest())
    series, instance, organization = (generate_uid(entropy_srcs=[*content, what]) for what in ("series", "sop", "dim"))
    try:
        dataset = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=pixels,
            segmentation_type="BINARY" if binary else "FRACTIONAL",
            segment_descriptions=[_describe(number, name, finding, model) for number, name in enumerate(names, 1)],
            series_instance_uid=series,
            series_number=900 if binary else 901,
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="medseglatdiff",
            manufacturer_model_name=model,
            software_versions=__version__,
            device_serial_number="1",
            series_description="Research only: not a medical device",
            omit_empty_frames=bool(pixels.any()),
        )
    except Exception as error:  # whatever a stranger's header makes highdicom raise
        raise ValueError(f"The source cannot be referred to by a DICOM Segmentation: {error}") from error
    _without_times(dataset, organization)
    # 3. the file, under its name only when it reads back as it was written
    with replacing(path) as partial:
        dataset.save_as(partial)
        _check_written(partial, sources, pixels)


def check_dicom(volume: Volume):
    """Raises a `ValueError` unless a volume is DICOM, which its segmentations refer to."""
    if not len(volume.sources):
        raise ValueError(f"`dicom-seg` must have a DICOM source to refer to, but {volume.path} is none: use `nifti`.")


def write_finding(
    folder: str | Path,
    result: FindingResult,
    volume: Volume,
    *,
    model: str,
    finding: str | None = None,
    hypotheses: bool = False,
    keep_all: bool = False,
):
    """Writes `seg.dcm` (consensus, with `hypotheses` these as further segments) and `seg-confidence.dcm` of a finding.

    Of a series, they refer to the slices that were looked at; of a multi-frame image, to all of its frames.

    Raises:
        ValueError: if the volume is not DICOM, and whatever `write_segmentation` raises.
    """
    check_dicom(volume)
    masks = np.concatenate([result.consensus[None], result.masks]) if hypotheses else result.consensus[None]
    maps = {"masks": masks, "confidence": result.confidence}  # [S, d, h, w], [d, h, w]
    if volume.frames:
        sources = volume.sources
        maps = {name: _in_frames(result, values, volume) for name, values in maps.items()}
    else:
        sources = volume.sources[result.slices.start : result.slices.stop]
        maps = {name: result.in_slices(values, volume.shape) for name, values in maps.items()}
    write = partial(write_segmentation, sources=sources, model=model, finding=finding, keep_all=keep_all)
    write(Path(folder) / "seg.dcm", masks=maps["masks"])
    write(Path(folder) / "seg-confidence.dcm", confidence=maps["confidence"])


def check_sources(sources: Sequence):
    """Raises a `ValueError` that names the attributes without which a segmentation cannot refer to its sources."""
    for number, source in enumerate(sources, start=1):
        placed = len(sources) > 1 or "FrameOfReferenceUID" in source or "NumberOfFrames" in source
        missing = [keyword for keyword in (*IMAGE, *(PLACE if placed else ())) if not _says(source, keyword)]
        if missing:
            raise ValueError(
                f"The source must have {', '.join(missing)} for a DICOM Segmentation to refer to it, but image "
                f"{number} of it lacks that: use another format, or add what is missing."
            )


def _says(source, keyword: str) -> bool:
    """Whether a header has a value for an attribute, functional groups included."""
    groups = [
        *(source.get("SharedFunctionalGroupsSequence") or []),
        *(source.get("PerFrameFunctionalGroupsSequence") or [])[:1],
    ]
    items = [item for group in groups for element in group if element.VR == "SQ" for item in element.value]
    return any(item.get(keyword) not in (None, "") for item in (source, *items))


def copied(source, keep_all: bool):
    """The part of a source's header that goes into a segmentation, as a `pydicom.Dataset`; all of it if wanted."""
    from pydicom import Dataset

    header = Dataset()
    if keep_all:
        header.update({element.tag: element for element in source if element.keyword != "PixelData"})
    for keyword in (*IMAGE, *PLACE, *FRAMES, *FURTHER, *IDENTITY):
        if keyword in source:
            header[keyword] = source[keyword]
    for keyword in (*IDENTITY, *WITHHELD):
        if keyword not in header:
            setattr(header, keyword, None)
    return header


def _in_frames(result: FindingResult, values: np.ndarray, volume: Volume) -> np.ndarray:
    """Values of the box, `(..., d, h, w)`, in all frames of a file, in their order there, `(..., F, H, W)`."""
    frames = np.zeros((*values.shape[:-3], *volume.shape), values.dtype)  # [..., F, H, W]
    frames[..., [volume.frames[z] for z in result.slices], :, :] = result.in_slices(values, volume.shape)
    return frames


def _describe(number: int, name: str, finding: str | None, model: str):
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import Code, codes

    code, meaning = FINDINGS[finding]
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=Code(code, "SCT", meaning),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model, family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )


def _without_times(dataset, organization: str):
    """Replaces what differs from run to run: times of writing, and the UID that highdicom draws for dimensions."""
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate or "19000101", dataset.StudyTime or "000000"
    del dataset.InstanceCreationDate, dataset.InstanceCreationTime
    for item in dataset.get("ContributingEquipmentSequence") or []:
        del item.ContributionDateTime
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def _check_written(path: Path, sources: Sequence, pixels: np.ndarray):
    """Raises a `ValueError` unless highdicom reads the pixels, `(F, H, W, S)`, of each source image as they are."""
    import highdicom

    try:
        written = highdicom.seg.segread(path)
        options = dict(assert_missing_frames_are_empty=True, rescale_fractional=False)
        uids = [source.SOPInstanceUID for source in sources]
        if "PerFrameFunctionalGroupsSequence" in sources[0]:
            found = written.get_pixels_by_source_frame(uids[0], range(1, len(pixels) + 1), **options)
        else:
            found = written.get_pixels_by_source_instance(uids, **options)
    except Exception as error:  # highdicom raises nearly anything
        raise ValueError(f"The DICOM Segmentation that was written cannot be read back: {error}") from error
    expected = pixels if pixels.dtype == np.uint8 else np.around(pixels * 255)  # [F, H, W, S]
    if not np.array_equal(found, expected):
        raise ValueError("The DICOM Segmentation that was written does not read back as it was: nothing is kept.")
