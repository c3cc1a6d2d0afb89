"""Folder names that mean a split: 'train', 'Testing', 'seg_test', 'asl_alphabet_train' beside 'asl_alphabet_test'."""

import collections
import re
from collections.abc import Iterable

TRAIN, VALIDATION, TEST, UNLABELED = "train", "validation", "test", "unlabeled"
_WORDS = {
    TRAIN: r"train(ing)?|trn",
    VALIDATION: r"val|valid(ation)?|dev",
    TEST: r"test(s|ing)?|eval(uation)?|holdout",
    UNLABELED: r"pred(iction)?s?|unlabell?ed",
}
_FILLER = r"data(set)?|sets?|images?|imgs?|jpegs?|jpegimages|folders?|splits?|samples?|seg|(19|20)\d\d"


def split_names(folders: Iterable[str]) -> dict[str, str]:
    """Which of the folders are named like splits, and which splits those are.

    A name may have filler words ('training_set') and any case. Other words must be shared by a training split and
    another one: 'pets_train' and 'pets_test' are splits; 'bullet_train' and 'freight_train' are not.
    """
    found, splits_by_rest = {}, collections.defaultdict(set)
    for folder in folders:
        words = _words(folder)
        named = [(split, word) for word in words if (split := _split(word))]
        if len(named) == 1:
            ((split, split_word),) = named
            rest = tuple(word for word in words if word != split_word and not _is_filler(word))
            found[folder] = split, rest
            splits_by_rest[rest].add(split)
    return {folder: split for folder, (split, rest) in found.items() if not rest or {TRAIN} < splits_by_rest[rest]}


def is_filler(folder: str) -> bool:
    """Whether the name says nothing about a class or a split: 'images', 'dataset'."""
    return all(map(_is_filler, _words(folder)))


def _words(folder: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", folder.lower())


def _split(word: str) -> str | None:
    return next((split for split, p in _WORDS.items() if re.fullmatch(rf"({p})(set|data|images?|imgs?)?", word)), None)


def _is_filler(word: str) -> bool:
    return re.fullmatch(_FILLER, word) is not None
