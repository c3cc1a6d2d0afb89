import pytest

from cifar_jax.data.split_names import is_filler, split_names


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAINING training_set train_data seg_train train-images trainset Train2017 trn"),
        ("validation", "val Valid validation dev val_images valid_set VAL2017"),
        ("test", "test Test testing TESTING test_set test-data seg_test testset tests eval evaluation holdout"),
        ("unlabeled", "seg_pred pred unlabeled unlabelled predictions"),
    ],
)
def test_names_of_splits_in_any_case_with_filler_words(split, names):
    for name in names.split():
        assert split_names([name]) == {name: split}


def test_other_words_must_be_shared_by_splits():
    pets = ["pets_train", "pets_test", "pets_val"]
    assert split_names(pets) == {"pets_train": "train", "pets_test": "test", "pets_val": "validation"}
    assert split_names(["bullet_train", "freight_train", "test tube", "cat", "values", "contest", "train_1"]) == {}
    assert split_names(["train_test"]) == {}


def test_filler_words_say_nothing():
    assert all(map(is_filler, ("images", "Dataset", "JPEGImages", "data_set")))
    assert not any(map(is_filler, ("cat", "0", "train", "cat images")))
