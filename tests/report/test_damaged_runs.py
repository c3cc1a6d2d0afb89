"""A damaged run never breaks the comparison of others, and its own report says which file is damaged."""

import json
import os

import pytest
from PIL import Image

from cifar_jax.errors import DataError
from cifar_jax.modes import report as report_mode
from cifar_jax.report import comparison, figures, page
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import REBUILD

FILES = ("config.json", "architecture.json", "history.json", "results.json", "evaluation/test/metrics.json")
READ_BY_COMPARISON = ("config.json", "history.json", "results.json")


def edit(path):
    """Another digit in the first number with a fraction, and the same checksum."""
    text = path.read_text()
    place = text.index(".") + 1 if "." in text else text.rindex("1")
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def misspell(path):
    path.write_text(path.read_text().replace('"', '"x', 1))


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "empty object": lambda path: path.write_text("{}"),
    "list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "empty": lambda path: path.write_text(""),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "digit": edit,
    "key": misspell,
    "folder": replace_by_folder,
}


@pytest.fixture
def runs(tmp_path, make_run):
    """Two whole runs, and one to damage."""
    for number, name in enumerate(("first", "second", "damaged")):
        make_run(tmp_path / name, learning_rate=1.0 + number, skill=1.0 + number)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in READ_BY_COMPARISON for damage in DAMAGES]
    + [("evaluation/test/predictions.npz", damage) for damage in DAMAGES if damage not in ("digit", "key")],  # of text
)
def test_a_comparison_has_the_other_runs_and_the_reason(runs, name, damage, monkeypatch):
    monkeypatch.setattr(comparison, "_draw", lambda groups, *, title, path: Image.new("RGB", (9, 9)).save(path))
    DAMAGES[damage](runs / "damaged" / name)
    comparison.write(runs)
    report = read_json(runs / "report.json")
    (reason,) = report["skipped"]
    assert reason.startswith("damaged: ") and name in reason and "\n" not in reason and len(reason) < 600
    names = {"first", "second", "damaged"} if name.endswith("npz") else {"first", "second"}
    assert {group["name"] for group in report["groups"]} == names
    assert [{pair["first"], pair["second"]} for pair in report["pairs"]] == [{"first", "second"}]
    assert reason in (runs / "report.md").read_text(encoding="utf-8")
    assert name in (runs / "report.html").read_text(encoding="utf-8")


def test_a_run_without_its_config_json_is_skipped_with_a_reason(runs):
    (runs / "damaged" / "config.json").unlink()
    (runs / "damaged" / "checkpoints" / "5" / "meta").mkdir(parents=True)
    comparison.write(runs)
    (reason,) = read_json(runs / "report.json")["skipped"]
    assert "config.json cannot be read: No such file" in reason and "no copy" in reason


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_report_of_a_damaged_run_names_the_file_and_what_to_do(runs, name, damage):
    DAMAGES[damage](runs / "damaged" / name)
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
        report_mode.report(runs / "damaged")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert REBUILD in message or (name == "config.json" and "delete it to start again" in message)


def test_all_damaged_files_of_a_run_are_named_at_once(runs, make_run):
    folder = make_run(runs / "damaged")
    assert folder.damages() == []
    for name in FILES[1:]:
        (folder.path / name).write_text("{}")
    (folder.evaluation_dir("test") / "predictions.npz").unlink()
    damages = folder.damages()
    assert [any(name in damage for damage in damages) for name in FILES[1:]] == [True] * 4
    assert all("\n" not in damage for damage in damages)


def test_predictions_of_another_evaluation_are_not_compared(runs, make_run):
    other = make_run(runs / "other", seed=5)
    path = "evaluation/test/predictions.npz"
    (runs / "damaged" / path).write_bytes((other.path / path).read_bytes())
    comparison.write(runs)
    (reason,) = read_json(runs / "report.json")["skipped"]
    assert "predictions.npz is of another evaluation than results.json" in reason


def test_a_run_in_a_folder_whose_name_is_not_utf_8_is_skipped_with_a_reason(runs):
    os.rename(runs / "damaged", os.fsencode(runs) + b"/\xff")
    comparison.write(runs)
    (reason,) = read_json(runs / "report.json")["skipped"]
    assert reason.startswith(r"\xff: ") and "not UTF-8" in reason


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", "cut"])
def test_a_damaged_figure_is_left_out_with_a_warning(runs, make_run, parse, caplog, content):
    folder = make_run(runs / "damaged")
    figures.redraw(folder)
    path = folder.figures_dir / "curves.png"
    path.write_bytes(path.read_bytes()[:-500] if content == "cut" else content)
    html = parse(page.write(folder))
    assert len(html.values("src")) == 3 and "curves.png is damaged" in caplog.text


def test_the_files_of_an_older_version_are_read_with_a_warning(runs, make_run, caplog):
    folder = make_run(runs / "damaged")
    for name in FILES:
        content = json.loads((folder.path / name).read_text())
        content.pop("checksum", None)
        content.pop("history_checksum", None)
        (folder.path / name).write_text(json.dumps(content))
    report_mode.report(folder.path)
    assert caplog.text.count("no checksum") == 4


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(runs, make_run, monkeypatch):
    folder = make_run(runs / "damaged")
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.path)
    with pytest.raises(DataError, match=rf"^{folder.path} cannot be written: Permission denied; copy the folder"):
        report_mode.report(folder.path)
    monkeypatch.undo()
    folder.figures_dir.write_text("a file in place of the folder")
    with pytest.raises(DataError, match=r"figures cannot be written: .*copy the folder .*--workdir"):
        report_mode.report(folder.path)
