"""The README's Python snippet runs, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("path", ["training/train.py", "training/evaluate.py", "training/publish.py"])
def test_named_commands_exist(path):
    assert path.split("/")[1] in (ROOT / "README.md").read_text() and (ROOT / path).is_file()
