"""The comparison of runs: groups, means, paired tests and skipped runs."""

import numpy as np
import pytest
from scipy import stats

from cifar_jax.errors import UsageError
from cifar_jax.metrics import ensemble
from cifar_jax.modes import report as report_mode
from cifar_jax.report import comparison
from cifar_jax.runs.json_files import read_json, write_json
from cifar_jax.runs.predictions import write_predictions


@pytest.fixture
def runs(tmp_path, make_run):
    """A folder with two seeds of a good recipe, a run of a worse one, an unfinished run and a damaged one."""
    command = "python main.py --config configs/good.py"
    for seed in (1, 0):
        make_run(tmp_path / "good" / f"seed_{seed}", seed=seed, skill=2, command=command)
    write_json(tmp_path / "good" / "results.json", {"seeds": [0, 1]})
    make_run(tmp_path / "bad", learning_rate=9.0, skill=0.5, command="python main.py --config=configs/bad.py")
    make_run(tmp_path / "unfinished").results_json.unlink()
    make_run(tmp_path / "damaged").history_json.write_text("{")
    return tmp_path


def test_seeds_are_one_row_with_mean_and_student_interval(runs):
    comparison.write(runs)
    good, bad = read_json(runs / "report.json")["groups"]
    results = [read_json(runs / "good" / f"seed_{seed}" / "results.json") for seed in (0, 1)]
    accuracies = [result["test"]["accuracy"] for result in results]
    expected = stats.t.interval(0.95, 1, loc=np.mean(accuracies), scale=stats.sem(accuracies))
    assert good["name"] == "good" and good["recipe"] == "good" and good["seeds"] == [0, 1]
    assert good["test"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert good["test"]["interval"] == pytest.approx(np.clip(expected, 0, 1))
    assert good["ece"] == pytest.approx(np.mean([result["test"]["ece"] for result in results]))
    alone = read_json(runs / "bad" / "results.json")["test"]
    assert bad["recipe"] == "bad" and bad["test"]["interval"] == alone["accuracy_interval"]
    assert [row["differences"] for row in (good, bad)] == [
        {"optimizer.learning_rate": 0.1},
        {"optimizer.learning_rate": 9.0},
    ]


def test_intervals_over_seeds_are_clipped_to_possible_accuracies(tmp_path, make_run, change):
    for seed, accuracy in enumerate((0.03, 0.97)):  # unclipped: -5.5 to 6.5
        folder = make_run(tmp_path / f"seed_{seed}", seed=seed)
        results = read_json(folder.results_json)
        change(folder.results_json, test=results["test"] | {"accuracy": accuracy})
    comparison.write(tmp_path)
    (group,) = read_json(tmp_path / "report.json")["groups"]
    assert group["test"]["accuracy"] == pytest.approx(0.5) and group["test"]["interval"] == [0, 1]


def test_a_repeated_seed_does_not_count_as_two_seeds(tmp_path, make_run):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        make_run(tmp_path / name, seed=seed)
    comparison.write(tmp_path)
    assert sorted(group["seeds"] for group in read_json(tmp_path / "report.json")["groups"]) == [[0], [0, 1]]


def test_skipped_runs_are_listed_with_the_reason(runs):
    comparison.write(runs)
    damaged, unfinished = read_json(runs / "report.json")["skipped"]
    assert damaged.startswith("damaged: ") and "history.json is damaged" in damaged
    assert unfinished.startswith("unfinished: not finished")


def test_pairs_are_compared_on_the_same_images(runs):
    comparison.write(runs)
    (pair,) = read_json(runs / "report.json")["pairs"]
    correct = {}
    for name in (pair["first"], pair["second"]):
        with np.load(runs / name / "evaluation" / "test" / "predictions.npz") as saved:
            correct[name] = saved["labels"] == saved["predictions"]
    first_N, second_N = correct.values()
    assert (pair["first"], pair["second"], pair["n"]) == ("good/seed_0", "bad", 300)
    assert pair["only_first"] == (first_N & ~second_N).sum() and pair["only_second"] == (second_N & ~first_N).sum()
    assert pair["difference"] == pytest.approx(second_N.mean() - first_N.mean()) and pair["difference"] < 0
    assert pair["interval"][0] < pair["difference"] < pair["interval"][1] < 0 and pair["p_value"] < 0.01


def test_the_seeds_of_a_recipe_and_all_runs_are_evaluated_as_ensembles(runs, parse):
    comparison.write(runs)
    seeds, everything = read_json(runs / "report.json")["ensembles"]
    assert (seeds["name"], seeds["runs"]) == ("good", ["good/seed_0", "good/seed_1"])
    assert (everything["name"], everything["runs"]) == ("all runs on shapes", ["good/seed_0", "good/seed_1", "bad"])
    saved = [np.load(runs / name / "evaluation" / "test" / "predictions.npz") for name in everything["runs"]]
    for row, files in ((seeds, saved[:2]), (everything, saved)):
        expected = ensemble.evaluate([file["logits"] for file in files], labels_N=saved[0]["labels"])
        assert {name: row[name] for name in expected} == expected
        for text in (parse(runs / "report.html").text, (runs / "report.md").read_text(encoding="utf-8")):
            assert f"{100 * row['accuracy']:.2f} %" in text and f"{100 * row['gain']:+.2f}" in text


def test_a_run_without_logits_is_in_no_ensemble(runs):
    path = runs / "good" / "seed_1" / "evaluation" / "test" / "predictions.npz"
    with np.load(path) as saved:
        write_predictions(path, labels_N=saved["labels"], predictions_N=saved["predictions"])
    comparison.write(runs)
    report = read_json(runs / "report.json")
    assert [row["runs"] for row in report["ensembles"]] == [["good/seed_0", "bad"]]
    assert any(line.startswith("good/seed_1: in no paired comparison and no ensemble: ") for line in report["skipped"])


def test_runs_on_different_test_images_are_not_compared(tmp_path, make_run):
    make_run(tmp_path / "first")
    make_run(tmp_path / "other_data", seed=1, data="cifar10")
    comparison.write(tmp_path)
    report = read_json(tmp_path / "report.json")
    assert report["pairs"] == report["ensembles"] == [] and len(report["groups"]) == 2


def test_the_curves_of_each_data_set_have_their_own_axes(tmp_path, make_run, drawn):
    for name, data in (("first", "shapes"), ("second", "shapes"), ("third", "cifar10")):
        make_run(tmp_path / name, data=data, learning_rate=float(len(name)))
    comparison.write(tmp_path)
    cifar10, shapes = drawn[0].subfigs
    assert [figure.get_suptitle() for figure in (cifar10, shapes)] == ["cifar10", "shapes"]
    for figure, names in ((cifar10, {"third"}), (shapes, {"first", "second"})):
        assert len(figure.axes) == 3
        assert all({line.get_label() for line in axes.lines} == names for axes in figure.axes)


def test_a_probe_ranks_by_its_validation_accuracy_before_the_final_fit(tmp_path, make_run, change):
    make_run(tmp_path / "honest", skill=2.0)
    refitted = make_run(tmp_path / "refitted", skill=3.0, learning_rate=1.0)
    validation = read_json(refitted.results_json)["validation"]
    change(refitted.results_json, validation=validation | {"before_final_fit": {"accuracy": 0.25, "loss": 1.0}})
    comparison.write(tmp_path)
    groups = read_json(tmp_path / "report.json")["groups"]
    assert [row["name"] for row in groups] == ["honest", "refitted"]
    assert groups[1]["validation"]["accuracy"] == 0.25
    low, high = groups[1]["validation"]["interval"]
    assert low < 0.25 < high < 0.31


def test_page_and_table_agree_and_the_page_is_self_contained(runs, parse):
    comparison.write(runs)
    groups = read_json(runs / "report.json")["groups"]
    page = parse(runs / "report.html")
    table = (runs / "report.md").read_text(encoding="utf-8")
    for group in groups:
        for split in ("train", "validation", "test"):
            for text in (page.text, table):
                assert f"{100 * group[split]['accuracy']:.2f} %" in text
                assert "{:.2f} to {:.2f}".format(*(100 * bound for bound in group[split]["interval"])) in text
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert [f"#{name}" for name in page.values("id")] == page.values("href")
    assert "not finished" in page.text and "not finished" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.count("|") for line in rows] == [12] * 4 + [8] * 3 + [6] * 4


def test_a_p_value_too_small_for_a_float_is_not_shown_as_zero(tmp_path, make_run, change):
    for name, right in (("all", True), ("none", False)):
        folder = make_run(tmp_path / name, learning_rate=1.0 + right)
        labels_N, logits_NK = np.zeros(2000, int), np.tile(np.float32([1, 0, 0]), (2000, 1))
        path = folder.evaluation_dir("test") / "predictions.npz"
        logits_NK = logits_NK if right else logits_NK[:, ::-1].copy()
        write_predictions(path, labels_N=labels_N, predictions_N=logits_NK.argmax(axis=1), logits=logits_NK)
        test = read_json(folder.results_json)["test"]
        change(folder.results_json, test=test | {"n": 2000, "accuracy": float(right)})
    comparison.write(tmp_path)
    assert read_json(tmp_path / "report.json")["pairs"][0]["p_value"] == 0
    assert "< 1e-300" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "&lt; 1e-300" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_many_configurations_are_all_in_the_table_and_twenty_in_the_figure(tmp_path, make_run, drawn):
    for number in range(22):
        make_run(tmp_path / f"run{number:02}", learning_rate=1.0 + number)
    comparison.write(tmp_path)
    report = read_json(tmp_path / "report.json")
    assert len(report["groups"]) == 22 and len(report["pairs"]) == 22 * 21 // 2
    assert "the first 20 of 22 configurations" in drawn[0].get_suptitle()


def test_a_folder_without_finished_runs_is_an_error_in_one_line(tmp_path, make_run):
    with pytest.raises(UsageError, match="contains no finished run: name the folder"):
        comparison.write(tmp_path)
    make_run(tmp_path / "started").results_json.unlink()
    with pytest.raises(UsageError, match=r"no finished run \(started: not finished") as error:
        comparison.write(tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("report.*"))


def test_the_mode_writes_the_page_of_a_run_or_compares_the_runs_below(runs):
    assert [path.suffix for path in report_mode.report(runs)] == [".html", ".md", ".json", ".png"]
    assert report_mode.report(runs / "bad") == [runs / "bad" / "report.html"]
    assert {path.stem for path in (runs / "bad" / "figures").iterdir()} == {
        *("curves", "confusion_matrix", "per_class", "calibration"),
    }


def test_configurations_without_a_validation_split_come_last_and_have_no_curves(tmp_path, make_run, drawn):
    make_run(tmp_path / "b", validation=False, skill=9)  # its test accuracy is the best, but does not rank it
    make_run(tmp_path / "a", validation=False, skill=3, learning_rate=0.3)
    make_run(tmp_path / "validated", skill=0.5)
    comparison.write(tmp_path)
    groups = read_json(tmp_path / "report.json")["groups"]
    assert [group["name"] for group in groups] == ["validated", "a", "b"]
    assert groups[0]["validation"]["n"] == 300 and groups[1]["validation"] is None
    assert {len(axes.lines) for axes in drawn[-1].axes} == {1}
    for kind in ("md", "html"):
        text = (tmp_path / f"report.{kind}").read_text(encoding="utf-8")
        assert text.count("no such split") == 2 and "configurations without a validation split last, by name" in text


def test_without_any_validation_split_there_are_no_curves(tmp_path, make_run):
    make_run(tmp_path / "validated")
    comparison.write(tmp_path)
    (tmp_path / "validated" / "results.json").unlink()
    for name, rate in (("b", 0.1), ("a", 0.2)):
        make_run(tmp_path / name, validation=False, learning_rate=rate)
    written = comparison.write(tmp_path)
    assert {path.suffix for path in written} == {".html", ".md", ".json"} and not (tmp_path / "report.png").exists()
    assert "report.png" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "there are no validation curves" in text and "data:image/png" not in text
    (pair,) = read_json(tmp_path / "report.json")["pairs"]
    assert (pair["first"], pair["second"]) == ("a", "b")
