"""What models are called: short names that stay apart, and words for people."""

from collections.abc import Sequence
from pathlib import PurePosixPath

IMAGES = {  # data set -> what a model that was trained on it is for
    "lidc-idri": "Lung nodules in CT",
    "cvc-clinicdb": "Polyps in colonoscopy",
    "isic2018": "Skin lesions in photographs",
}


def short_names(models: Sequence[str]) -> list[str]:
    """The last parts of folders or Hub ids, as many of each as tell it from the others.

    >>> short_names(["runs/a/pipeline", "runs/b/pipeline/", "ORG/lung"])
    ['a/pipeline', 'b/pipeline', 'lung']
    """
    parts = [PurePosixPath(str(model).replace("\\", "/")).parts for model in models]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in set(parts)) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def human_names(names: Sequence[str]) -> list[str]:
    """Words for each name; the name stays beside them where it alone tells models apart.

    >>> human_names(["medseglatdiff-isic2018", "mine"])
    ['Skin lesions in photographs', 'mine']
    """
    words = [next((text for dataset, text in IMAGES.items() if name.endswith(dataset)), name) for name in names]
    return [text if words.count(text) == 1 else f"{text} ({name})" for text, name in zip(words, names, strict=True)]
