"""The tables that an evaluation prints."""

from ..metrics.names import NAMES
from ..training.commands import text_table

SHORT = {"dice": "Dice ↑", "ged": "GED ↓", "hm_iou": "HM-IoU ↑", "iou": "IoU ↑"}


def number(entry: dict | None) -> str:
    """An entry's value; empty if there is none."""
    return "" if entry is None or entry["value"] is None else f"{entry['value']:.4f}"


def ends(entry: dict) -> str:
    """The ends of an entry's interval; empty if there is none."""
    return "" if entry["interval"] is None else f"{entry['low']:.4f} to {entry['high']:.4f}"


def results_text(results: dict) -> str:
    """The metrics with their intervals, then a row per class, predictor without a model and number of steps."""
    metrics = {name: entry for name, entry in results["metrics"].items() if entry["value"] is not None}
    rows = [[NAMES[name], number(metrics[name]), ends(metrics[name])] for name in NAMES if name in metrics]
    tables = [text_table([["metric", "value", "95 % interval"], *rows])] if rows else []
    groups = results["num_groups"]
    if rows and groups < 10:
        tables.append(f"Few groups ({groups}): too few to tell models apart.")
    blocks = {f"class {label}": block for label, block in results.get("classes", {}).items()}
    blocks |= {name.replace("_", " "): block for name, block in results["degenerate"].items()}
    blocks |= {
        f"{steps} step{'s' * (steps != '1')}": block["metrics"] for steps, block in results.get("by_steps", {}).items()
    }
    if blocks:
        lines = [[label, *(number(block.get(name)) for name in SHORT)] for label, block in blocks.items()]
        tables.append(text_table([["", *SHORT.values()], *lines]))
    return "\n\n".join(tables)
