"""LIDC-IDRI, lung nodules in CT with up to four readers, from any of the three forms in which people have it."""

from functools import partial
from pathlib import Path

from archives import Source
from common import build, parser, provenance
from lidc_dicom import series_jobs, series_rows
from lidc_pickle import pickle_jobs, pickle_rows
from lidc_slices import IMAGE, slice_jobs, slice_rows, slice_strays


def main(argv: list[str] | None = None) -> Path:
    """Build the data set from the command line's arguments."""
    options = parser(__doc__)
    options.add_argument("sources", nargs="+", help="the slices archive, the DICOM collection or data_lidc.pickle")
    window = {"nargs": 2, "type": float, "metavar": ("CENTRE", "WIDTH"), "default": (-600.0, 1500.0)}
    options.add_argument("--window", **window, help="of DICOM, in Hounsfield units")
    options.add_argument("--pixel-mm", type=float, help="of DICOM: resample crops to this pixel size, such as 0.5")
    args = options.parse_args(argv)
    source, strays = Source(args.sources), []
    if any(IMAGE.fullmatch(name) for name in source.names):
        form, jobs, make_rows = "128 x 128 PNG slices", slice_jobs(source), partial(slice_rows, source)
        strays = slice_strays(source)
    elif jobs := series_jobs(source):
        form, make_rows = "DICOM series with XML", partial(series_rows, source, tuple(args.window), args.pixel_mm)
    elif any(name.endswith((".pickle", ".pkl")) for name in source.names):
        form, jobs, make_rows = "pickle of crops", pickle_jobs(source), pickle_rows
    else:
        found = ", ".join(source.names[:3]) or "nothing"
        raise ValueError(
            "`sources` must hold LIDC-IDRI-XXXX/nodule-N/images/slice-K.png, DICOM series with one XML file each, or "
            f"data_lidc.pickle, but hold {len(source.names)} files: {found} ..."
        )
    print(f"LIDC-IDRI from {form}: {len(jobs):,} to read")
    return build(args, "card_lidc_idri.md", jobs, make_rows, provenance(args, source, form=form), strays)


if __name__ == "__main__":
    main()
