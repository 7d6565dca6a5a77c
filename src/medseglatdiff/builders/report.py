"""The report on a data set: counts, sizes, areas, duplicates and omissions, as JSON, as text and as a picture."""

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from ..data.groups import SPLITS
from ..data.names import printable
from ..overview import outline
from .names import look_like_people
from .picture_files import Row

EXAMPLES = 8  # rows per split on the contact sheet
TILE = 160  # pixels
COLOURS = ((255, 60, 60), (70, 220, 90), (80, 140, 255), (255, 200, 40), (230, 90, 230), (60, 220, 220))
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
TAKEN = ("groups", "splits", "raters", "tables")  # entries of `built_from` that say how a builder chose them
NEARLY_FULL = 0.95  # share of foreground from which a mask is flagged
FEW_GROUPS = 10
MEAN_LITTLE = {
    "validation": "threshold, calibration and the choice of a checkpoint",
    "test": "measures on the test split and their confidence intervals",
}


class Report:
    """Collects numbers about the rows as they are added, and a few rows per split as examples.

    Args:
        built_from (`dict`): source, fingerprint, command, options: copied into the report.
        warnings (`Sequence[str]`, *optional*): sentences that the report repeats.
        anonymous (`bool`, *optional*, defaults to `False`): keep the names of files out of what is saved.
    """

    def __init__(self, built_from: dict, warnings: Sequence[str] = (), anonymous: bool = False):
        self.built_from, self.warnings, self.anonymous = built_from, list(warnings), anonymous
        self.skipped: list[dict[str, str]] = []
        self.dropped: list[dict[str, str]] = []
        # by split
        self.areas: dict[str, list[int]] = defaultdict(list)
        self.sizes: dict[str, Counter[str]] = defaultdict(Counter)
        self.raters: dict[str, Counter[int]] = defaultdict(Counter)
        self.groups: dict[str, set[str]] = defaultdict(set)
        self._examples: dict[str, list[tuple[int, str, Row]]] = defaultdict(list)
        # of all splits
        self.hashes: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.flags: dict[str, list[str]] = {"nearly_full_masks": [], "empty_masks_only": [], "identical_raters": []}
        self.removed: Counter[str] = Counter()
        self.names: set[str] = set()

    def skip(self, name: str, reason: str):
        """Records a bad file."""
        self.skipped.append({"file": name, "reason": reason})

    def add(self, row: Row):
        """Records a row, kept or dropped."""
        if row.dropped:
            self.dropped.append({"image_id": row.image_id, "reason": row.dropped})
            return
        pixels = row.image.pixels
        self.sizes[row.split]["{1}x{0}".format(*pixels.shape)] += 1
        self.raters[row.split][len(row.masks)] += 1
        self.areas[row.split] += [int(np.count_nonzero(mask.pixels)) for mask in row.masks]
        self.groups[row.split].add(row.group_id)
        self._flag(row)
        self.removed.update(kind for picture in (row.image, *row.masks) for kind in picture.removed)
        self.names |= {row.image_id, row.group_id}
        content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        self.hashes[content].append((row.split, row.image_id))
        # the rows with the smallest hashes of their names are a fixed random sample
        rank = -int(hashlib.sha256(row.image_id.encode()).hexdigest(), 16)
        keep = heapq.heappush if len(self._examples[row.split]) < EXAMPLES else heapq.heappushpop
        keep(self._examples[row.split], (rank, row.image_id, row))

    def _flag(self, row: Row):
        masks = [mask.pixels for mask in row.masks]  # R * [H, W]
        if any(np.count_nonzero(mask) > NEARLY_FULL * mask.size for mask in masks):
            self.flags["nearly_full_masks"].append(row.image_id)
        if not any(mask.any() for mask in masks):
            self.flags["empty_masks_only"].append(row.image_id)
        elif len(masks) > 1 and all(np.array_equal(mask, masks[0]) for mask in masks[1:]):
            self.flags["identical_raters"].append(row.image_id)

    @property
    def examples(self) -> dict[str, list[Row]]:
        """Random rows per split."""
        return {split: [row for _, _, row in sorted(heap, reverse=True)] for split, heap in self._examples.items()}

    def bad_files(self) -> str:
        """One line per bad file."""
        return "\n".join(printable(f"  {bad['file']}: {bad['reason']}") for bad in self.skipped)

    def crossing_groups(self) -> list[str]:
        """Groups that lie in more than one split."""
        counts = Counter(group for groups in self.groups.values() for group in groups)
        return sorted(group for group, count in counts.items() if count > 1)

    def all_warnings(self) -> list[str]:
        """The warnings of the builder and those about the rows, one sentence each."""
        rows = {split: sum(counts.values()) for split, counts in self.raters.items()}
        sentences = [printable(sentence) for sentence in self.warnings]
        for split, means_little in MEAN_LITTLE.items():
            if split not in rows:
                sentences.append(f"there is no {split} split for {means_little}.")
            elif len(self.groups[split]) < FEW_GROUPS:
                count = f"{len(self.groups[split])} group{'s' * (len(self.groups[split]) != 1)}"
                sentences.append(f"{split} has {count}, fewer than {FEW_GROUPS}: {means_little} are unreliable.")
        if rows and "train" not in rows:
            sentences.append("there is no train split.")
        texts = {
            "nearly_full_masks": f"have a mask of more than {NEARLY_FULL:.0%} foreground: inverted, or not a mask?",
            "empty_masks_only": "have empty masks only.",
            "identical_raters": "have the same mask from every rater: copies?",
        }
        for flag, text in texts.items():
            if ids := self.flags[flag]:
                sentences.append(f"{len(ids)} of {sum(rows.values())} images, such as {printable(ids[0])}, {text}")
        across = self._doubles()[1]
        if across:
            copies = printable(", ".join(across[0][:3]))
            sentences.append(f"identical images lie in several splits: {len(across)}, such as {copies}.")
        if self.crossing_groups():
            sentences.append(
                f"{len(self.crossing_groups())} groups lie in several splits: results will look too good."
            )
        if self.removed["orientation"]:
            sentences.append(
                f"{self.removed['orientation']} files had an EXIF orientation, which was removed: pixels and masks "
                "are used as they are stored."
            )
        people = sorted(name for name in self.names if look_like_people(name))
        if people:
            sentences.append(
                f"{len(people)} names of images or groups look like people's names or dates, and are published with "
                "the data: --anonymous-ids replaces them by numbers."
            )
        return sentences

    def _doubles(self) -> tuple[list[list[str]], list[list[str]]]:
        """The ids of identical images, within a split and across splits."""
        within: list[list[str]] = []
        across: list[list[str]] = []
        for rows in self.hashes.values():
            if len(rows) > 1:
                found = within if len({split for split, _ in rows}) == 1 else across
                found.append([image_id for _, image_id in rows])
        return within, across

    def as_dict(self) -> dict:
        """The whole report, ready for JSON."""
        within, across = self._doubles()
        skipped = [{"reason": "a file that cannot be used"} for _ in self.skipped] if self.anonymous else self.skipped
        return {
            "built_from": self.built_from,
            "splits": {split: self._split(split) for split in SPLITS if split in self.sizes},
            "warnings": self.all_warnings(),
            **self.flags,
            "metadata_removed": dict(sorted(self.removed.items())),
            "duplicates_within_splits": within,
            "duplicates_across_splits": across,
            "groups_across_splits": self.crossing_groups(),
            "dropped": self.dropped,
            "skipped": skipped,
        }

    def _split(self, split: str) -> dict:
        areas = np.array(self.areas[split])
        drawn = areas[areas > 0]
        percentiles = np.percentile(drawn, PERCENTILES).tolist() if drawn.size else []
        return {
            "rows": sum(self.raters[split].values()),
            "groups": len(self.groups[split]),
            "sizes": dict(self.sizes[split].most_common(5)),
            "masks_per_row": {str(count): rows for count, rows in sorted(self.raters[split].items())},
            "empty_masks": float((areas == 0).mean()),
            "area_percentiles": dict(zip(map(str, PERCENTILES), percentiles, strict=False)),
        }

    def save(self, path: Path):
        """Writes the report as JSON."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def summary(self) -> dict[str, str]:
        """The entries of a card's template, as Markdown."""
        report = self.as_dict()
        lines = [
            "| split | rows | groups | usual size | masks per row | empty masks | area (px): 5 %, median, 95 % |",
            "|---|---|---|---|---|---|---|",
        ]
        for split, facts in report["splits"].items():
            size, masks = next(iter(facts["sizes"])), ", ".join(facts["masks_per_row"])
            cells = (split, facts["rows"], facts["groups"], size, masks)
            areas = ", ".join(f"{facts['area_percentiles'].get(share, 0):,.0f}" for share in ("5", "50", "95"))
            lines.append("| {} | {:,} | {:,} | {} | {} | {:.1%} | {} |".format(*cells, facts["empty_masks"], areas))
        reasons = Counter(row["reason"] for row in self.dropped)
        within, across = (len(report[f"duplicates_{where}_splits"]) for where in ("within", "across"))
        return {
            "splits": "\n".join(lines),
            "dropped": "".join(f"- {count} rows dropped: {why}\n" for why, count in reasons.items())
            or "- no row dropped\n",
            "skipped": f"- {len(self.skipped)} unusable files skipped",
            "duplicates": f"- {within} sets of identical images within a split, {across} across splits; "
            f"{len(report['groups_across_splits'])} groups across splits",
            "removed": "- metadata removed, by kind and number of files: "
            + (", ".join(f"{kind} {count}" for kind, count in sorted(self.removed.items())) or "none"),
            "warnings": "\n".join(f"- {sentence}" for sentence in report["warnings"]) or "- none",
            "built": "\n".join(f"- {key}: `{value}`" for key, value in self.built_from.items()),
        }

    def text(self) -> str:
        """The report for the terminal."""
        summary = self.summary()
        taken = [f"- {key}: {printable(self.built_from[key])}" for key in TAKEN if key in self.built_from]
        parts = [summary[key].strip() for key in ("splits", "dropped", "skipped", "duplicates", "removed")]
        warnings = [f"warning: {sentence}" for sentence in self.all_warnings()]
        return "\n".join([*parts, *taken, *([self.bad_files()] if self.skipped else []), *warnings])


def contact_sheet(examples: dict[str, list[Row]]) -> PIL.Image.Image:
    """Random rows, one line per split, with the outlines of each rater in one colour."""
    sheet = PIL.Image.new("RGB", (EXAMPLES * TILE, len(examples) * TILE))
    for line, (split, rows) in enumerate(examples.items()):
        for column, row in enumerate(rows):
            sheet.paste(_tile(row), (column * TILE, line * TILE))
        PIL.ImageDraw.Draw(sheet).text((4, line * TILE + 4), split, "white")
    return sheet


def _tile(row: Row) -> PIL.Image.Image:
    pixels = row.image.pixels  # [H, W] or [H, W, 3]
    if pixels.dtype != np.uint8:
        pixels = (pixels / max(pixels.max(), 1) * 255).astype(np.uint8)
    image = PIL.Image.fromarray(pixels).convert("RGB").resize((TILE, TILE))
    canvas = np.array(image)  # [TILE, TILE, 3]
    for rater, mask in enumerate(row.masks):
        drawn = PIL.Image.fromarray(mask.pixels).resize((TILE, TILE), PIL.Image.Resampling.NEAREST)
        canvas[outline(np.asarray(drawn) > 0, width=1)] = COLOURS[rater % len(COLOURS)]
    return PIL.Image.fromarray(canvas)
