"""Whether a name looks like a person's name or a date of birth."""

import re

from ..data.groups import word_set

TITLE_WORDS = re.compile(r"(?:^|[_\-,.^ /])[A-Z][a-z]{2,}(?:[_\-,.^ ]+)[A-Z][a-z]{2,}(?=$|[_\-,.^ /\d])")
CARETS = re.compile(r"[^\W\d_]{2,}\^[^\W\d_]+")  # DICOM's person names, PS3.5 6.2.1
YEAR, MONTH, DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
ORDERS = rf"{YEAR}([-_.]?){MONTH}\1{DAY}|{DAY}([-_.]?){MONTH}\2{YEAR}|{MONTH}([-_.]){DAY}\3{YEAR}"
DATES = re.compile(rf"(?<!\d)(?:{ORDERS})(?!\d)")
# words for pictures and parts of the body
NO_NAMES = word_set(
    """image images img scan slice case patient subject frame photo picture series study lesion left right upper
    lower lung liver skin eye brain breast chest heart kidney retina polyp tumor tumour nodule mask test train axial
    sagittal coronal top bottom normal benign malignant copy new old final raw rater sample group video clip view"""
)


def look_like_people(name: str) -> bool:
    """Whether a name may identify a person: two capitalised words, a DICOM name or a date; a hint, not a proof."""
    if CARETS.search(name) or DATES.search(name):
        return True
    found = TITLE_WORDS.search(name)
    return found is not None and not NO_NAMES & set(re.findall(r"[a-z]+", found[0].lower()))
