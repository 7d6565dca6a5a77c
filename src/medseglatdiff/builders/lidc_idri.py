"""LIDC-IDRI, lung nodules in CT with up to four readers, from any of its three common forms."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .archives import Source
from .build import Row, build, parser, provenance
from .lidc_dicom import series_jobs, series_rows, series_strays
from .lidc_pickle import pickle_jobs, pickle_rows
from .lidc_slices import slice_jobs, slice_rows, slice_strays

LUNG_WINDOW = [-600.0, 1500.0]  # centre and width in Hounsfield units


def reader_of(
    source: Source, window: list[float] | None, pixel_mm: float | None
) -> tuple[str, list, Callable[..., list[Row]], list[str]]:
    """The form in which a source holds the collection: its name, the jobs, a function from job to rows, and strays.

    Raises:
        ValueError: for a source in none of the three forms, and for options of DICOM with another form.
    """
    if series := series_jobs(source):
        centre, width = window or LUNG_WINDOW
        make_rows = partial(series_rows, source, (centre, width), pixel_mm)
        return "DICOM series with XML", series, make_rows, series_strays(source)
    if window or pixel_mm:
        raise ValueError("`--window` and `--pixel-mm` must be left out unless `sources` hold DICOM series with XML.")
    if slices := slice_jobs(source):
        return "128 x 128 PNG slices", slices, partial(slice_rows, source), slice_strays(source)
    if any(name.endswith((".pickle", ".pkl")) for name in source.names):
        return "pickle of crops", pickle_jobs(source), pickle_rows, []
    raise ValueError(
        "`sources` must hold LIDC-IDRI-XXXX/nodule-N/images/slice-K.png, DICOM series with one XML file each, or "
        f"data_lidc.pickle, but hold {len(source.names)} files: {', '.join(source.names[:3]) or 'nothing'} ..."
    )


def main(argv: list[str] | None = None) -> Path:
    """Builds the data set from command-line arguments."""
    options = parser(__doc__, "lidc-idri")
    options.add_argument("sources", nargs="+", help="the slices archive, the DICOM collection or data_lidc.pickle")
    window = "of DICOM, in Hounsfield units (default: the lung window, -600 1500)"
    options.add_argument("--window", nargs=2, type=float, metavar=("CENTRE", "WIDTH"), help=window)
    size = "of DICOM: resample crops to this pixel size, such as 0.5 (default: that of the scan)"
    options.add_argument("--pixel-mm", type=float, metavar="MM", help=size)
    args = options.parse_args(argv)
    if not (args.pixel_mm or 1) > 0 or not (args.window or LUNG_WINDOW)[1] > 0:
        options.error("`--pixel-mm` and the width of `--window` must be above 0")
    source = Source(args.sources)
    form, jobs, make_rows, strays = reader_of(source, args.window, args.pixel_mm)
    print(f"LIDC-IDRI from {form}: {len(jobs):,} to read")
    return build(args, "card_lidc_idri.md", jobs, make_rows, provenance(args, source, form=form), strays)
