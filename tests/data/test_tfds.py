import dataclasses
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from email.message import Message

import numpy as np
import pytest
import tensorflow_datasets

from cifar_jax.data import cifar_archive, tfds
from cifar_jax.errors import DataError, UsageError


@pytest.fixture
def prepared(tmp_path, cifar):
    """(original, data directory, version directory) of a synthetic CIFAR-10."""
    original = cifar(10)
    archive = original.pack(cifar_archive.CIFAR10_PYTHON, tmp_path / "x.tgz")
    return (
        original,
        tmp_path / "data",
        tfds.prepare("cifar10", archive=archive, data_dir=tmp_path / "data"),
    )


def _assert_same_records(records, images, labels, names):
    """TFDS shuffles on writing; the id says which image a record is."""
    order = [int(record["id"].decode().split("_")[1]) for record in records]
    assert sorted(order) == list(range(len(images)))
    np.testing.assert_array_equal([record["image"] for record in records], images[order])
    for name, row in zip(names, labels, strict=True):
        np.testing.assert_array_equal([record[name] for record in records], row[order])


@pytest.mark.parametrize(
    ("name", "version", "labels"),
    [
        ("cifar10", cifar_archive.CIFAR10_PYTHON, ["label"]),
        ("cifar10", cifar_archive.CIFAR10_BINARY, ["label"]),
        ("cifar100", cifar_archive.CIFAR100_PYTHON, ["coarse_label", "label"]),
    ],
)
def test_stock_tfds_reads_what_was_prepared(tmp_path, cifar, name, version, labels):
    original = cifar(10 if name == "cifar10" else 100)
    archive = original.pack(version, tmp_path / "x.tgz")
    directory = tfds.prepare(name, archive=archive, data_dir=tmp_path / "data")
    assert directory == tmp_path / "data" / name / "3.0.2"

    stock = tensorflow_datasets.data_source(name, data_dir=tmp_path / "data", download=False)
    _assert_same_records(list(stock["train"]), original.images[:50], original.labels[:, :50], labels)
    _assert_same_records(list(stock["test"]), original.images[50:], original.labels[:, 50:], labels)
    info = tensorflow_datasets.builder(name, data_dir=tmp_path / "data").info
    assert [info.features[label].names for label in labels] == original.names


def test_prepared_data_read_back_have_the_same_images(prepared):
    original, _, directory = prepared
    dataset = tfds.read(directory, image_size=0)
    assert (dataset.name, dataset.validation) == ("cifar10", None)
    assert dataset.class_names == tuple(original.names[0])
    for images, start, stop in ((dataset.train, 0, 50), (dataset.test, 50, 60)):
        read = sorted((i.tobytes(), n) for i, n in zip(images.images_NHWC, images.labels_N, strict=True))
        expected = zip(original.images[start:stop], original.labels[0, start:stop], strict=True)
        assert read == sorted((image.tobytes(), label) for image, label in expected)


def test_no_tensorflow_is_imported(tmp_path, cifar):
    archive = cifar(10).pack(cifar_archive.CIFAR10_PYTHON, tmp_path / "x.tgz")
    program = """
import sys, pathlib
from cifar_jax.data import tfds
assert not {"tensorflow_datasets", "matplotlib", "jax"} & set(sys.modules), "importing is not light"
archive, data_dir = map(pathlib.Path, sys.argv[1:])
path = tfds.prepare("cifar10", archive=archive, data_dir=data_dir)
assert len(tfds.read(path, image_size=0).train) == 50
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, archive, tmp_path / "data"], check=True)


def test_find_takes_data_directory_data_set_and_version(prepared, tmp_path):
    _, data, directory = prepared
    for path in (data, data / "cifar10", directory):
        assert tfds.find(path, name="cifar10") == directory
    assert tfds.find(data, name="cifar100") is None
    assert tfds.find(tmp_path / "nothing", name="cifar10") is None
    for version in ("3.0.10", "3.0.9", "incomplete.4.0.0"):
        shutil.copytree(directory, data / "cifar10" / version)
    assert tfds.find(data, name="cifar10").name == "3.0.10"


def test_empty_directory_in_the_place_is_filled(tmp_path, cifar):
    (tmp_path / "data" / "cifar10" / "3.0.2").mkdir(parents=True)
    archive = cifar(10).unpack(cifar_archive.CIFAR10_PYTHON, tmp_path)
    directory = tfds.prepare("cifar10", archive=archive, data_dir=tmp_path / "data")
    assert len(tfds.read(directory, image_size=0).test) == 10


def test_images_are_resized(prepared):
    assert tfds.read(prepared[2], image_size=8).train.images_NHWC.shape == (50, 8, 8, 3)


def test_validation_is_the_test_split_where_there_is_no_other(prepared):
    _, _, directory = prepared
    text = (directory / "dataset_info.json").read_text()
    (directory / "dataset_info.json").write_text(text.replace('"name": "test"', '"name": "validation"'))
    for file in directory.glob("*-test.*"):
        file.rename(directory / file.name.replace("-test.", "-validation."))
    dataset = tfds.read(directory, image_size=0)
    assert dataset.validation is None and len(dataset.test) == 10


def test_splits_that_are_not_read_are_named(prepared):
    _, _, directory = prepared
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace('"name": "test"', '"name": "extra"'))
    for file in directory.glob("*-test.*"):
        file.rename(directory / file.name.replace("-test.", "-extra."))
    dataset = tfds.read(directory, image_size=0)
    assert dataset.passed_over == ("split extra (10 images)",)
    assert dataset.warnings == (f"{directory}: split extra (10 images) not used; train, validation and test are read",)
    assert dataset.origin == "from the splits of the source, a sixth of train held out as test"


def test_tfrecord_cannot_be_read_and_the_error_says_how_to_convert(prepared):
    _, _, directory = prepared
    for file in directory.glob("*array_record*"):
        file.rename(directory / file.name.replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=r"TFRecord.*tfds convert_format.*array_record") as caught:
        tfds.read(directory, image_size=0)
    assert str(directory) in str(caught.value)


def test_damaged_directories_are_errors_that_name_them(prepared, tmp_path):
    _, _, directory = prepared

    def damaged(name, change):
        copy = tmp_path / name / "3.0.2"
        shutil.copytree(directory, copy)
        change(copy)
        with pytest.raises(DataError, match=str(copy)) as caught:
            tfds.read(copy, image_size=0)
        assert "\n" not in str(caught.value)

    def truncate(copy):
        (file,) = copy.glob("*train*")
        file.write_bytes(file.read_bytes()[:70_000])

    def without_label(copy):
        features = json.loads((copy / "features.json").read_text())
        del features["featuresDict"]["features"]["label"]
        (copy / "features.json").write_text(json.dumps(features))

    damaged("truncated", truncate)
    damaged("no-json", lambda copy: (copy / "dataset_info.json").write_text("{"))
    damaged("no-label", without_label)
    damaged("no-file", lambda copy: next(copy.glob("*test*")).unlink())


def _changed(directory, file, change):
    content = json.loads((directory / file).read_text())
    change(content)
    (directory / file).write_text(json.dumps(content))


def test_other_kinds_of_features_are_named(prepared):
    _, _, directory = prepared
    original = (directory / "features.json").read_text()

    def of_image(content):
        content["featuresDict"]["features"]["label"] = content["featuresDict"]["features"]["image"]

    def of_label(content):
        content["featuresDict"]["features"]["image"] = content["featuresDict"]["features"]["label"]

    for change, message in ((of_image, "label is Image; expected ClassLabel"), (of_label, "image is ClassLabel")):
        _changed(directory, "features.json", change)
        with pytest.raises(DataError, match=f"3.0.2: the feature {message}"):
            tfds.read(directory, image_size=0)
        (directory / "features.json").write_text(original)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_no_module_is_imported_that_the_directory_names(prepared, tmp_path, monkeypatch, key):
    _, _, directory = prepared
    (tmp_path / "planted_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    _changed(directory, "features.json", lambda content: content.update({key: "planted_module.Feature"}))
    with pytest.raises(DataError, match=r"features\.json: a class from outside TFDS \('planted_module.Feature'\)"):
        tfds.read(directory, image_size=0)


def test_more_classes_than_memory_and_labels_without_a_class_are_refused(prepared):
    _, _, directory = prepared
    (directory / "label.labels.txt").unlink()

    def set_classes(count):
        def change(content):
            content["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = count

        _changed(directory, "features.json", change)

    for count, message in (("1099511627776", "1,099,511,627,776 classes, at most 1,000,000"), ("3", "expected images")):
        set_classes(count)
        with pytest.raises(DataError, match=message):
            tfds.read(directory, image_size=0)


def test_images_of_several_sizes_need_an_image_size(prepared, monkeypatch):
    sizes = iter(range(1, 10**6))
    monkeypatch.setattr(tfds.decode, "decode_image", lambda *_, **__: np.zeros((next(sizes), 2, 3), np.uint8))
    with pytest.raises(UsageError, match="image_size=N"):
        tfds.read(prepared[2], image_size=0)


class Response(io.BytesIO):
    status, headers = 200, Message()


def _serve(monkeypatch, answer):
    requests = []

    def urlopen(request, timeout):
        requests.append((request.full_url, timeout))
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return requests


def test_download_and_prepare(tmp_path, cifar, monkeypatch):
    content = cifar(10).pack(cifar_archive.CIFAR10_PYTHON, tmp_path / "x.tgz").read_bytes()
    requests = _serve(monkeypatch, content)
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(tfds.VERSIONS, "cifar10", dataclasses.replace(cifar_archive.CIFAR10_PYTHON, md5=md5))
    directory = tfds.download_and_prepare("cifar10")
    assert directory == tmp_path / "tensorflow_datasets" / "cifar10" / "3.0.2"
    assert requests == [("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 10.0)]
    assert len(tfds.read(directory, image_size=0).train) == 50
    assert tfds.find(tfds.default_data_dir(), name="cifar10") == directory


@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.URLError("no route"),
        urllib.error.HTTPError("url", 503, "busy", Message(), None),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b""),
        b"<html>please log in to this network</html>",
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_every_failure_of_the_network_means_unavailable(tmp_path, monkeypatch, answer):
    _serve(monkeypatch, answer)
    with pytest.raises(tfds.Unavailable) as caught:
        tfds.download_and_prepare("cifar10")
    assert str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("cifar-10-python.tar.gz"))
