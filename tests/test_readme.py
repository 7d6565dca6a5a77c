"""The README's Python snippet runs, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_snippet_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(snippet, names)
    assert names["out"].masks[0].shape[0] == 16 and names["out"].confidence[0].max() <= 1


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links and all((ROOT / link).exists() for link in links)


def test_named_files_exist():
    for page in ("README.md", "docs/training.md", "docs/results.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        named = re.findall(r"(?:training|dataset_scripts|benchmarks|examples|src|spaces|pipelines)/[\w./-]*\w", text)
        missing = [name for name in named if not (ROOT / name).exists()]
        assert named and not missing, (page, missing)


def test_presets_in_the_table_exist():
    presets = {path.stem for path in (ROOT / "training" / "configs").glob("*.json")}
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    endings = {name.lstrip(".") for name in named if name.startswith(".")}
    known = {preset for preset in presets if preset in named or any(preset.endswith(ending) for ending in endings)}
    assert known == presets and {name for name in named if not name.startswith(".")} <= presets


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
