"""The README's and ABLATIONS' numbers are those of the results files."""

import json
from pathlib import Path

import ablation_tables
import readme_results

ROOT = Path(__file__).parents[1]


def test_results_are_current(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    for folder in ("pipelines", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    texts = {name: (ROOT / name).read_text() for name in ("README.md", "docs/results.md")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(readme_results, "ROOT", tmp_path)
    readme_results.main()
    assert {name: (tmp_path / name).read_text() for name in texts} == texts, "run `make results`"


def test_ablations_are_current(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "ablations").symlink_to(ROOT / "benchmarks" / "ablations")
    monkeypatch.setattr(ablation_tables, "ROOT", tmp_path)
    ablation_tables.main()
    text = (tmp_path / "benchmarks" / "ABLATIONS.md").read_text()
    assert text == (ROOT / "benchmarks" / "ABLATIONS.md").read_text(), "run `make results`"


def test_a_split_that_leaks_is_told_from_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(readme_results, "ROOT", tmp_path)
    assert readme_results.random_frames("mine", ("dice",)) == []
    folder = tmp_path / "benchmarks" / "random_frames" / "mine"
    folder.mkdir(parents=True)
    results = {"num_images": 7, "num_groups": 12, "metrics": {"dice": {"value": 0.5, "low": 0.25, "high": 0.75}}}
    stages = {"start/unet": {"cpu_hours": 0.5}, "unet": {"cpu_hours": 0.25}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "training.json").write_text(json.dumps({"config": {"start_from": "pipelines/theirs"}, "stages": stages}))
    ((label, values, protocol),) = readme_results.random_frames("mine", ("dice",))
    assert "same preset" in label and values == "0.500 (0.250-0.750)"
    start = "those of theirs included, from whose weights it starts"
    assert protocol == f"random frames, which leak: 7 of them; trained 45 core minutes, {start}"


def test_a_training_by_steps_is_told_with_the_minutes_that_they_stand_for():
    members = [{"core_seconds": 600, "steps": 30}, {"core_seconds": 900, "steps": 30}]
    assert readme_results.core_minutes({"training": members}) == "25 core minutes"
    told = readme_results.core_minutes({"training": members, "steps": 6000, "core_minutes": 12.0})
    assert told == "12 core minutes (by their 6,000 steps, on another machine)"


def test_a_measure_that_one_entry_lacks_stays_empty_there():
    entries = {"1": {"dice": 0.5, "ged": 0.75}, "2": {"dice": 0.25, "ged": 0.5, "diversity": 0.125}}
    header, _, *rows = ablation_tables.measures_table("masks", entries)
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["masks", "Dice", "GED", "diversity"]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert cells == [["1", "0.500", "0.750", ""], ["2", "0.250", "0.500", "0.125"]]


def test_intervals_of_few_groups_are_shown_only_where_their_method_covers():
    bootstrap = {"dice": {"value": 0.5, "low": 0.25, "high": 0.75}}
    named = {"dice": bootstrap["dice"] | {"interval": "t over groups"}}
    none = {"dice": {"value": 0.5, "low": None, "high": None, "interval": None}}
    assert readme_results.cells(bootstrap, ("dice",), 9) == readme_results.cells(none, ("dice",), 99) == ["0.500"]
    assert readme_results.cells(bootstrap, ("dice",), 10) == ["0.500 (0.250-0.750)"]
    assert readme_results.cells(named, ("dice", "ged"), 5) == ["0.500 (0.250-0.750)", ""]
    assert readme_results.cells(named, ("dice",)) == ["0.500"]
