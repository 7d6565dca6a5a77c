"""LIDC-IDRI, lung nodules in CT with up to four readers, from any of the three forms in which people have it."""

from functools import partial
from pathlib import Path

from archives import Source
from common import build, parser, provenance
from lidc_slices import IMAGE, slice_jobs, slice_rows, slice_strays


def main(argv: list[str] | None = None) -> Path:
    """Build the data set from the command line's arguments."""
    options = parser(__doc__)
    options.add_argument("sources", nargs="+", help="the slices archive, the DICOM collection or data_lidc.pickle")
    args = options.parse_args(argv)
    source = Source(args.sources)
    if any(IMAGE.fullmatch(name) for name in source.names):
        kind, jobs, strays = "128 x 128 PNG slices", slice_jobs(source), slice_strays(source)
        make_rows = partial(slice_rows, source)
    else:
        found = ", ".join(source.names[:3]) or "no files"
        raise ValueError(
            "`sources` must hold LIDC-IDRI-XXXX/nodule-N/images/slice-K.png, DICOM series with one XML file each, or "
            f"data_lidc.pickle, but hold {len(source.names)} files: {found} ..."
        )
    print(f"LIDC-IDRI from {kind}: {len(jobs):,} to read")
    return build(args, "card_lidc_idri.md", jobs, make_rows, provenance(args, source, form=kind), strays)


if __name__ == "__main__":
    main()
