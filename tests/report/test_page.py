"""The page of a run: self-contained, well-formed, and consistent with the files."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cifar_jax.errors import DataError
from cifar_jax.report import figures, html, page
from cifar_jax.runs.json_files import read_json


@pytest.fixture
def written(tmp_path, make_run, parse):
    """A run with all of its figures, and its page."""
    folder = make_run(tmp_path / "cnn", command="python main.py --config configs/cnn.py")
    figures.redraw(folder)
    for name in ("samples", "label_distribution", "augmentation", "mistakes"):
        Image.new("RGB", (130, 90), "red").save(folder.figures_dir / f"{name}.png")
    assert page.write(folder) == folder.report_html
    return folder, parse(folder.report_html)


def test_the_page_is_self_contained_and_without_scripts(written):
    folder, parsed = written
    assert all(source.startswith("data:image/png;base64,") for source in parsed.values("src"))
    assert all(target.startswith("#") for target in parsed.values("href"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    text = folder.report_html.read_text(encoding="utf-8")
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]


def test_the_page_shows_the_numbers_of_results_json(written):
    folder, parsed = written
    results = read_json(folder.results_json)
    for split in ("train", "validation", "test"):
        assert f"{100 * results[split]['accuracy']:.2f} %" in parsed.text
        for figure in ("accuracy_interval", "ece_interval"):
            assert "[{:.2f} to {:.2f}]".format(*(100 * bound for bound in results[split][figure])) in parsed.text
        assert f"{results[split]['loss']:.4f}" in parsed.text and f"{100 * results[split]['ece']:.2f} %" in parsed.text
    for expected in ("2,346 s", "1,000 images/s", "1,234", "9.8.7", "abc123", "--config configs/cnn.py", "shapes test"):
        assert expected in parsed.text


def test_the_page_shows_top_5_accuracy_of_many_classes(tmp_path, make_run, parse):
    folder = make_run(tmp_path / "many", names=tuple("abcdefghijkl"))
    figures.redraw(folder)
    test = read_json(folder.results_json)["test"]
    assert test["accuracy"] < test["top5_accuracy"] < 1
    bounds = "{:.2f} to {:.2f}".format(*(100 * bound for bound in test["top5_accuracy_interval"]))
    expected = f"Top-5 accuracy {100 * test['top5_accuracy']:.2f} % [{bounds}]."
    assert expected in parse(page.write(folder)).text


def test_the_contents_link_to_the_sections_in_order(written):
    _, parsed = written
    ids = parsed.values("id")
    assert [f"#{name}" for name in ids] == parsed.values("href")
    assert ids[0] == "results" and ids[-2:] == ["configuration", "environment"]


def test_every_figure_is_on_the_page_with_its_size_and_a_description(written):
    folder, parsed = written
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == len(list(folder.figures_dir.glob("*.png"))) == 8
    for image in images:
        content = base64.b64decode(image["src"].partition(",")[2])
        with Image.open(io.BytesIO(content)) as decoded:
            assert decoded.size == (int(image["width"]), int(image["height"])) and len(image["alt"]) > 20


def test_the_page_has_enough_contrast_in_light_and_dark(written):
    text = written[0].report_html.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text and '<meta name="viewport"' in text
    light, dark = (
        re.search(pattern, text, re.S)[1] for pattern in (r":root \{(.*?)\}", r"dark\) \{\s*:root \{(.*?)\}")
    )
    for colors in (light, dark):
        ink, quiet, paper = (
            luminance(re.search(rf"--{name}: (#\w+)", colors)[1]) for name in ("ink", "quiet", "paper")
        )
        for text_color in (ink, quiet):
            high, low = max(text_color, paper), min(text_color, paper)
            assert (high + 0.05) / (low + 0.05) > 4.5  # as the Web Content Accessibility Guidelines require


def test_wide_tables_and_figures_scroll_in_their_own_container(written):
    _, parsed = written
    containers = [attributes.get("class") for tag, attributes in parsed.tags if tag in ("div", "table", "img")]
    kinds = [tag for tag, _ in parsed.tags if tag in ("div", "table", "img")]
    for place, kind in enumerate(kinds):
        if kind in ("table", "img"):
            assert kinds[place - 1] == "div" and containers[place - 1] == "wide"
    assert ".wide { overflow-x: auto;" in written[0].report_html.read_text(encoding="utf-8")


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_temperature_scaling_and_test_time_augmentation_have_their_own_rows(tmp_path, make_run, change, parse):
    folder = make_run(tmp_path / "cnn")
    test = read_json(folder.results_json)["test"]
    scaled = {
        "temperature": 1.618,
        "loss": 0.31418,
        "loss_interval": [0.3, 0.4],
        "ece": 0.02718,
        "ece_interval": [0, 0.1],
    }
    plain = test | {"accuracy": 0.4321}
    change(folder.results_json, test=test | {"tta": True, "without_tta": plain, "temperature_scaled": scaled})
    parsed = parse(page.write(folder))
    for expected in ("43.21 % without", "temperature 1.618", "0.3142", "2.72 %", "with test-time augmentation"):
        assert expected in parsed.text


def test_long_names_can_be_broken_and_are_escaped():
    assert html.breakable("a.b_c/<d>") == "a.<wbr>b_<wbr>c/<wbr>&lt;d&gt;"


def test_names_are_escaped(tmp_path, make_run, parse):
    folder = make_run(tmp_path / "a&b", data="<script>alert(1)</script>", command='python "x" <b>')
    parsed = parse(page.write(folder))
    assert not {"script", "b"} & {tag for tag, _ in parsed.tags}
    assert "<script>alert(1)</script>" in parsed.text and 'python "x" <b>' in parsed.text and "a&b" in parsed.text


@pytest.mark.slow
def test_a_page_with_large_figures_stays_small(tmp_path, make_run):
    folder = make_run(tmp_path / "cnn")
    folder.figures_dir.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (700, 1300, 3), np.uint8)
    for name in ("samples", "augmentation", "mistakes"):
        Image.fromarray(noise).save(folder.figures_dir / f"{name}.png")
    assert (folder.figures_dir / "samples.png").stat().st_size > 2_500_000
    assert page.write(folder).stat().st_size < 5_000_000


def test_an_unfinished_run_has_no_page(tmp_path, make_run):
    folder = make_run(tmp_path / "cnn")
    folder.results_json.unlink()
    with pytest.raises(DataError, match=r"results\.json cannot be read"):
        page.write(folder)
    assert not folder.report_html.exists() and not list(folder.path.glob(".*"))


def test_without_a_validation_split_the_page_has_no_validation_figures(tmp_path, make_run, parse):
    folder = make_run(tmp_path / "cnn", validation=False)
    figures.redraw(folder)
    parsed = parse(page.write(folder))
    assert "Evaluated once, after the last epoch: there is no validation split." in parsed.text
    assert "of training, including" in parsed.text
    rows = re.findall(r"<tr><th>(\w+)", folder.report_html.read_text(encoding="utf-8"))
    assert {"train", "test"} < set(rows) and "validation" not in rows
    assert "best" not in parsed.text and "nan" not in parsed.text.lower().split()
