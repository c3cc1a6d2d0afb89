"""Layouts as published and as users make them: each is read right, or refused with a way out."""

import os

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import image_folder
from cifar_jax.errors import DataError

LABELS = {"cat": 0, "dog": 1}


@pytest.fixture
def read(tmp_path):
    """read('train/cat', 'test/dog', ...): the data set of a folder with three images in each."""

    def make(*folders, text=None):
        root = tmp_path / "root"
        for number, folder in enumerate(folders):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(3):
                pixels = np.full((4, 4, 3), 10 * number + i, np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{number}{i}.png")
        for name, content in (text or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        return image_folder.read(root, image_size=0)

    return make


def _numbers(images):
    """Which of the folders given to `read` the images come from, by their labels."""
    folders = images.images_NHWC[:, 0, 0, 0] // 10
    return {(int(folder), images.class_names[label]) for folder, label in zip(folders, images.labels_N, strict=True)}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        ("pets_train/pets_train", "pets_test/pets_test"),
        ("train", "Test"),
        ("a/b/train", "a/b/test"),
        ("archive/dataset/images/TRAIN", "archive/dataset/images/EVAL"),
        ("train/images", "test/images"),
        ("training_data/train", "training_data/test"),
    ],
)
def test_splits_under_their_usual_names(read, train, test):
    dataset = read(f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
    assert dataset.class_names == ("cat", "dog")
    assert _numbers(dataset.train) == {(0, "cat"), (1, "dog")}
    assert _numbers(dataset.test) == {(2, "cat"), (3, "dog")}
    assert (dataset.origin, dataset.passed_over, dataset.warnings) == ("from split folders", (), ())


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "dev"])
def test_validation_under_its_usual_names(read, name):
    dataset = read("train/cat", "train/dog", f"{name}/cat", "test/dog")
    assert _numbers(dataset.validation) == {(2, "cat")} and _numbers(dataset.test) == {(3, "dog")}


def test_split_folders_within_the_classes(read):
    dataset = read("cat/train", "dog/train", "cat/test", "dog/test", "dog/val")
    assert _numbers(dataset.train) == {(0, "cat"), (1, "dog")} and _numbers(dataset.test) == {(2, "cat"), (3, "dog")}
    assert _numbers(dataset.validation) == {(4, "dog")} and dataset.origin == "from split folders within the classes"


def test_images_below_a_class_belong_to_it(read):
    dataset = read("train/cat/images", "train/dog/images/left", "train/dog/right", "test/cat/images")
    assert _numbers(dataset.train) == {(0, "cat"), (1, "dog"), (2, "dog")}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("A/cat", "A/dog", "B/cat", "B/dog"), r"root: A/, B/ hold the same folders \(cat, dog\); if"),
        (("A/A/cat", "A/A/dog", "B/B/cat", "B/B/dog"), "A/, B/ hold the same folders"),
        (("fold1/cat", "fold1/dog", "test/cat", "test/dog"), "fold1/, test/ hold the same folders"),
        (("cat/images", "cat/masks", "dog/images", "dog/masks"), "cat/, dog/ hold the same folders"),
        (("a/train/cat", "a/test/cat", "b/train/cat", "b/test/cat"), "a/, b/ hold the same folders"),
        (("pets/cat", "pets/dog", "docs"), "docs/ hold images, pets/ only folders of images"),
        (("train", "test"), "root: no class folders in test/, train/; expected split/class/file"),
        (("train", "test", "other"), "root: no class folders in test/, train/"),
        (("test/cat", "test/dog"), "root: no training images, only images in test/"),
        (("train/cat", "train/dog", "val"), "root/val: 3 images in no folder of a class; sort them into val/CLASS/"),
        (("train/cat", "train/dog", "val/cat", "dev/dog"), "root: dev/ and val/ are both named like the val"),
        (("train/cat", "train/dog", "held/cat", "held/dog"), "root/held: has class folders of the training split"),
        (("train/cat", "train/dog", "test/cat", "test/emu"), "root/test/emu: no such class in train"),
        ((".",), "root: no class folder with images"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_refused(read, folders, message):
    with pytest.raises(DataError, match=message):
        read(*folders)


def test_the_advice_of_a_refusal_works(read, tmp_path):
    with pytest.raises(DataError, match="rename them to train, validation and test; if classes, move all"):
        read("A/cat", "A/dog", "B/cat", "B/dog")
    root = tmp_path / "root"
    os.renames(root / "A", root / "train" / "A")
    os.renames(root / "B", root / "train" / "B")
    assert image_folder.read(root, image_size=0).class_names == ("A", "B")
    os.renames(root / "train" / "B", root / "test")
    os.renames(root / "train" / "A", root / "x")
    os.renames(root / "x", root / "train")
    dataset = image_folder.read(root, image_size=0)
    assert _numbers(dataset.train) == {(0, "cat"), (1, "dog")} and _numbers(dataset.test) == {(2, "cat"), (3, "dog")}


@pytest.mark.parametrize(
    ("folders", "note", "warning"),
    [
        (("test",), "test/ (3 images in no folder of a class)", "3 images of test/ not used, in no folder of a class"),
        (("test/images",), "test/ (3 images in no folder of a class)", "to test on them, sort them into folders"),
        (("test/unknown",), "test/ (3 images in no folder of a class)", "not used"),
        (("seg_pred/seg_pred",), "seg_pred/ (3 images without labels)", "use --mode predict for them"),
        (("photos",), "photos/ (3 images in a folder that is not named like a split)", "rename the folder"),
        (("train",), "train/ (3 images in no folder of a class)", "move them into the folders of their classes"),
        ((".",), "the top folder (3 images outside of the class folders)", "move or remove them"),
    ],
)
def test_images_that_are_not_used_are_named_and_counted(read, folders, note, warning):
    dataset = read("train/cat", "train/dog", "val/cat", *folders)
    assert dataset.passed_over == (note,)
    (line,) = dataset.warnings
    assert warning in line and "\n" not in line
    assert _numbers(dataset.train) == {(0, "cat"), (1, "dog")}


def test_a_class_that_is_named_like_a_split_is_a_warning(read):
    dataset = read("car", "train")
    assert dataset.class_names == ("car", "train")
    assert dataset.warnings[0].startswith("train/ is used as a class, though it is named like a split; ")


def test_food_101_and_cub_have_folders_without_images(read):
    text = {"food-101/meta/train.txt": "x", "food-101/README.txt": "x", "parts/p.txt": "x"}
    dataset = read("food-101/images/cat", "food-101/images/dog", text=text)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.passed_over == ("food-101/meta/, parts/ (no images)",) and dataset.warnings == ()


def test_tiny_imagenet_is_read_as_published(read):
    """train/CLASS/images, val/images with val_annotations.txt, test/images without labels."""
    lines = [f"2{i}.png\tn0{1 + i % 2}\t0\t0\t62\t62\n" for i in range(3)]
    text = {
        "tiny/val/val_annotations.txt": "".join(lines),
        "tiny/train/n01/n01_boxes.txt": "00.png\t0\t0\t1\t1\n",
        "tiny/wnids.txt": "n01\nn02\n",
    }
    dataset = read("tiny/train/n01/images", "tiny/train/n02/images", "tiny/val/images", "tiny/test/images", text=text)
    assert dataset.test.labels_N.tolist() == [0, 1, 0] and len(dataset.train) == 6
    origin = "from split folders, labels of val from val_annotations.txt, the validation images used as test"
    assert dataset.origin == origin
    assert dataset.passed_over == ("tiny/test/ (3 images in no folder of a class)", "1 .txt file")


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("20.png\tcat\n21.png\tdog\n", "val/val_annotations.txt: no line for 1 of 3 images, such as 22.png"),
        ("20.png cat\r\n21.png dog\r\n\n22.png emu\n", "val/22.png: no class 'emu' in train"),
        ("20.png\n", "val/val_annotations.txt: line 1 has no class"),
    ],
)
def test_annotations_that_do_not_fit_are_named(read, annotations, message):
    with pytest.raises(DataError, match=message):
        read("train/cat", "train/dog", "val", text={"val/val_annotations.txt": annotations})


def test_files_of_other_formats_are_counted(read):
    names = (
        "train/cat/a.heic",
        "train/cat/b.heic",
        "train/dog/c.csv",
        "train/dog/Thumbs.db",
        "train/dog/._00.png",
        "x.svg",
    )
    dataset = read("train/cat", "train/dog", "test/cat", text=dict.fromkeys(names, ""))
    assert dataset.passed_over == ("2 .heic files", "1 .csv file", "1 .svg file", "1 hidden file")
    (warning,) = dataset.warnings
    assert warning.endswith("root: 2 .heic files, 1 .svg file not used; convert them to JPEG or PNG")


def test_a_class_folder_without_images_is_an_error_others_are_not(read):
    with pytest.raises(DataError, match="root/train/emu: class folder without images"):
        read("train/cat", "train/dog", text={"train/emu/x.txt": ""})
    with pytest.raises(DataError, match="root/Test: split without images"):
        read("train/cat", "train/dog", text={"train/emu/x.png": "", "Test/cat/x.txt": ""})


def test_unsupported_images_alone_in_a_class_are_an_error(read):
    assert read("cat", "dog", text={"meta/x.txt": ""}).passed_over == ("meta/ (no images)",)
    with pytest.raises(DataError, match="root/emu: class folder without images"):
        read("cat", "dog", text={"emu/x.heic": ""})


def test_of_a_file_and_the_links_to_it_one_counts(read, tmp_path):
    read("pool", "train/cat", "train/dog", "val/cat", "outside/a")
    root = tmp_path / "root"
    (root / "train" / "dog" / "again.png").symlink_to("../cat/10.png")
    (root / "train" / "dog" / "loop").symlink_to("..")
    (root / "train" / "dog" / "pool.png").symlink_to("../../pool/00.png")
    (root / "test").symlink_to("val")
    dataset = image_folder.read(root, image_size=0)
    assert len(dataset.train) == 7 and len(dataset.test) == 3
    assert dataset.origin == "from split folders, the validation images used as test"
    notes = " ".join(dataset.passed_over)
    assert "4 links to files that count under another name (test/cat/30.png" in notes
    assert "1 link to folders around them (train/dog/loop)" in notes
    assert "pool/ (2 images in a folder" in notes


def test_class_names_that_are_not_used_are_named(read, tmp_path):
    dataset = read("cat", "dog", text={"class_names.txt": "cat Felis catus\n"})
    assert dataset.class_names == ("cat", "dog") and dataset.passed_over == ("class_names.txt (no line for dog)",)
    (tmp_path / "root" / "class_names.txt").write_bytes(b"\xef\xbb\xbfcat Felis catus\ndog Canis\n")
    assert image_folder.read(tmp_path / "root", image_size=0).class_names == ("Felis catus", "Canis")
    (tmp_path / "root" / "class_names.txt").write_bytes(b"\xff\xfec\0")
    with pytest.raises(DataError, match=r"class_names\.txt: not UTF-8 text; save it as UTF-8"):
        image_folder.read(tmp_path / "root", image_size=0)


@pytest.mark.parametrize("name", [b"a\nb", b"\xff", b"a\x1b[31m"])
def test_class_folders_that_cannot_be_printed_are_refused(read, tmp_path, name):
    read("cat", "dog")
    os.rename(tmp_path / "root" / "cat", os.fsencode(tmp_path / "root") + b"/" + name)
    with pytest.raises(DataError, match="has a name that cannot be printed as UTF-8; rename it") as caught:
        image_folder.read(tmp_path / "root", image_size=0)
    assert str(caught.value).isprintable()
