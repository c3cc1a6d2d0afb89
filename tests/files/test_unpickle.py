import os
import pickle
import subprocess

import numpy as np
import pytest

from cifar_jax.errors import DataError
from cifar_jax.files.unpickle import unpickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_and_plain_values_come_back(protocol):
    value = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "name": "x"}
    back = unpickle(pickle.dumps(value, protocol), where="f")
    np.testing.assert_array_equal(back.pop("data"), value.pop("data"))
    assert back == value


def test_module_names_of_older_numpy_are_known():
    data = pickle.dumps({"a": np.arange(3)}, 2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(unpickle(data, where="f")["a"], [0, 1, 2])


def test_python_2_wrote_text_and_pixels_as_byte_strings(python2_pickle):
    back = unpickle(python2_pickle({"data": np.array([[0, 255, 128]], np.uint8), "labels": [3]}), where="f")
    np.testing.assert_array_equal(back["data"], [[0, 255, 128]])
    assert back["labels"] == [3]


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, subprocess.check_call, os.mkdir])
def test_nothing_is_executed(tmp_path, function, protocol):
    mark = tmp_path / "executed"
    argument = {os.mkdir: str(mark), eval: f"__import__('os').mkdir({str(mark)!r})"}.get(function, f"mkdir {mark}")
    data = pickle.dumps({"data": Malicious(function, argument)}, protocol)
    with pytest.raises(DataError, match=r"batch: forbidden global .*\."):
        unpickle(data, where="batch")
    assert not mark.exists()


def test_attributes_of_allowed_names_are_no_way_round():
    for path in (b"numpy\nloads", b"numpy\nsave", b"numpy\nndarray.tofile", b"builtins\ngetattr"):
        with pytest.raises(DataError, match="forbidden global"):
            unpickle(b"\x80\x04c" + path + b"\n.", where="f")


def test_codecs_other_than_latin1_are_refused():
    with pytest.raises(DataError, match="forbidden encoding"):
        unpickle(b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", where="f")


def test_every_truncation_is_noticed():
    data = pickle.dumps({"data": np.arange(50, dtype=np.uint8), "labels": list(range(5))}, 2)
    for cut in range(len(data)):
        with pytest.raises(DataError, match="batch: "):
            unpickle(data[:cut], where="batch")


def test_another_type_than_a_dict_is_refused():
    with pytest.raises(DataError, match="a pickled list; expected a dict"):
        unpickle(pickle.dumps([1]), where="f")
