"""The flow of CONTRIBUTING.md goes one way: no module of the package imports from a place further right."""

import ast
from pathlib import Path

import pytest

import medseglatdiff

ROOT = Path(medseglatdiff.__file__).parent
ORDER = ["losses", "metrics", "data", "models", "overview", "pipeline", "builders", "training", "evaluation", "hub"]
ORDER += ["demo", "cli"]
UPLOADS = {("builders", "hub"), ("training", "hub")}  # `--push-to-hub` ends a build or a training with an upload


def imports(path: Path) -> set[str]:
    """The top-level places of the package that a module imports from, in functions too."""
    here, found = ["medseglatdiff", *path.relative_to(ROOT).with_suffix("").parts], set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found |= {(*module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
    return {name[1] for name in found if name[0] == "medseglatdiff" and len(name) > 1 and name[1] in ORDER}


def test_every_place_is_in_the_order():
    places = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert places - {"__init__", "__main__", "__pycache__"} == set(ORDER)


@pytest.mark.parametrize("place", ORDER)
def test_no_module_imports_from_further_right(place):
    folder = ROOT / place
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    found = {(place, name) for path in files for name in imports(path)}
    assert files and {arrow for arrow in found if ORDER.index(arrow[1]) > ORDER.index(place)} <= UPLOADS


def test_arrows_are_seen():
    assert {"data", "models"} <= imports(ROOT / "pipeline" / "pipeline.py")
    assert "hub" in imports(ROOT / "builders" / "build.py")  # within a function
