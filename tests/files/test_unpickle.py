import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from python2 import python2_pickle

from cifar_jax.errors import DataError
from cifar_jax.files.unpickle import unpickle

PROTOCOLS = range(6)
ARRAYS = {
    "uint8": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "empty": np.zeros((0, 3), np.uint8),
    "zero-dimensional": np.array(7),
    "Fortran order": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "permuted axes": np.arange(24.0).reshape(2, 3, 4).transpose(0, 2, 1),
    "big endian": np.arange(3, dtype=">i4"),
    "float16": np.array([0.5, -1.0], np.float16),
    "bool": np.array([True, False]),
    "text": np.array(["cat", "zebra"]),
    "bytes": np.array([b"cat", b"zebra"]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS.values(), ids=list(ARRAYS))
def test_arrays(array, protocol):
    loaded = unpickle(pickle.dumps({"data": array}, protocol), where="file")["data"]
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype == array.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_and_scalars(protocol):
    value = {"labels": [1, np.int64(2), np.uint8(255)], "name": "x", "raw": b"\x00\xff", "accuracy": np.float32(0.5)}
    value |= {"bytearray": bytearray(b"\x00\xff"), b"key": np.str_("cat"), (1, "a"): 2}
    assert unpickle(pickle.dumps(value, protocol), where="file") == value


def test_module_names_of_older_numpy():
    for protocol in (2, 5):
        data = pickle.dumps({"a": np.arange(3)}, protocol)
        older = data.replace(b"numpy._core.", b"numpy.core.").replace(b"\x8c\x13numpy._core", b"\x8c\x12numpy.core")
        older = older.replace(b"\x8c\x13numpy.core.numeric", b"\x8c\x12numpy.core.numeric")
        assert b"_core" not in older
        np.testing.assert_array_equal(unpickle(unframed(older), where="file")["a"], [0, 1, 2])


def unframed(data: bytes) -> bytes:
    """Without the frame, whose length another module name changes."""
    start = data.find(b"\x95")
    return data if start < 0 else data[:start] + data[start + 9 :]


def test_python_2_wrote_text_and_pixels_as_byte_strings():
    loaded = unpickle(python2_pickle({"data": np.array([[0, 255, 128]], np.uint8), "labels": [3]}), where="file")
    np.testing.assert_array_equal(loaded["data"], [[0, 255, 128]])
    assert loaded["labels"] == [3]


class Reduced:
    """Is pickled as the call of a function, and the state that its result is given."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


RECONSTRUCT, _, (_, _, DTYPE, _, _) = np.zeros(0, np.uint8).__reduce__()
SCALAR = np.float64(0).__reduce__()[0]
UINT8_STATE = (3, "|", None, None, None, -1, -1, 0)


def dtype(code, state=UINT8_STATE):
    return Reduced(np.dtype, code, False, True, state=state)


def array(shape=(2,), dtype=DTYPE, data=b"ab"):
    return Reduced(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, data))


HOSTILE = {
    "an object array of pointers": array(dtype=dtype("O8", (3, "|", None, None, None, -1, -1, 63)), data=b"a" * 16),
    "objects behind a void dtype": array(
        (1,), dtype("V8", (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 63)), b"a" * 8
    ),
    "fields of uint8": array(dtype=dtype("u1", (3, "|", None, ("f",), {"f": (DTYPE, 0)}, 1, 1, 0))),
    "another size of uint8": array(dtype=dtype("u1", (3, "|", None, None, None, 1 << 40, 1, 0))),
    "flags of uint8": array(dtype=dtype("u1", (3, "|", None, None, None, -1, -1, 63))),
    "a byte order that does not exist": array(dtype=dtype("u1", (3, "x", None, None, None, -1, -1, 0))),
    "a short state": array(dtype=dtype("u1", (3,))),
    "a scalar with the state of another dtype": Reduced(SCALAR, dtype("m8", UINT8_STATE), b"A" * 8),
    "a scalar that is too short": Reduced(SCALAR, dtype("f8", UINT8_STATE), b"A"),
    "a dtype that is a list": array(dtype=dtype([("a", "O")])),
    "text of another length": array((1,), dtype("U2", (3, "<", None, None, None, 4, 4, 8)), b"a" * 8),
    "an array of complex numbers": array((1,), dtype("c8"), b"a" * 8),
    "text in place of a dtype": array(dtype="u1"),
    "more elements than bytes": array((1 << 40,)),
    "fewer elements than bytes": array((1,)),
    "sizes whose product overflows": array((1 << 32, 1 << 32)),
    "negative sizes": array((-1, -2)),
    "sizes that are not integers": array((2.0,)),
    "too many dimensions": array((1,) * 99, data=b"a"),
    "a list in place of bytes": array(data=[1, 2]),
    "a state of attributes": Reduced(RECONSTRUCT, np.ndarray, (0,), b"b", state={"values": 1}),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=list(HOSTILE))
def test_dtypes_and_shapes_are_not_trusted(value, protocol):
    with pytest.raises(DataError, match="batch: "):
        unpickle(pickle.dumps({"data": value}, protocol), where="batch")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, subprocess.check_call, os.mkdir])
def test_nothing_is_executed(tmp_path, function, protocol):
    proof = tmp_path / "executed"
    argument = {os.mkdir: str(proof), eval: f"__import__('os').mkdir({str(proof)!r})"}.get(function, f"mkdir {proof}")
    data = pickle.dumps({"data": Reduced(function, argument)}, protocol)
    with pytest.raises(DataError, match=r"batch: forbidden global .*\."):
        unpickle(data, where="batch")
    assert not proof.exists()


def test_attributes_of_allowed_names_are_forbidden():
    for path in (b"numpy\nloads", b"numpy\nsave", b"numpy\nndarray.tofile", b"builtins\ngetattr"):
        with pytest.raises(DataError, match="forbidden global"):
            unpickle(b"\x80\x04c" + path + b"\n.", where="file")


@pytest.mark.parametrize("name", [b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray"])
def test_no_pickle_changes_what_the_next_one_meets(name):
    with pytest.raises(DataError, match="changes an object"):
        unpickle(b"\x80\x02c" + name + b"\n}U\x04callU\x01xsb.", where="file")


def test_codecs_other_than_latin1_are_refused():
    with pytest.raises(DataError, match="forbidden encoding"):
        unpickle(b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", where="file")


def amplified(call: bytes, times: int) -> bytes:
    """A list of `times` results of a function of 100 kB of text, each in a few bytes."""
    text = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000
    return b"\x80\x02}X\1\0\0\0a]" + text + b"q\1" + b"0(" + call * times + b"es."


LARGE = {
    "index 2**25 of the memo": b"\x80\x02}r\xff\xff\xff\x01.",
    "a bytearray of 1 GB": b"\x80\x05}U\x01x\x96\0\0\0\x40\0\0\0\0s.",
    "four million sets": b"\x80\x04}U\x01x(" + b"\x8f" * 4_000_000 + b"ts.",
    "twenty million Nones": b"\x80\x04}U\x01x(" + b"N" * 20_000_000 + b"ts.",
    "one text encoded 30,000 times": amplified(b"c_codecs\nencode\nh\1X\6\0\0\0latin1\x86R", 30_000),
    "one text as 30,000 bytearrays": amplified(b"cbuiltins\nbytearray\nh\1\x85R", 30_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_file_takes_much_more_memory_than_its_size(name):
    """In a process with an address space of 700 MB beyond what the imports take."""
    program = f"""
import resource, sys
from cifar_jax.errors import DataError
from cifar_jax.files.unpickle import unpickle
from test_unpickle import LARGE
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (700 << 20),) * 2)
try:
    unpickle(LARGE[{name!r}], where="file")
except DataError as error:
    assert "MemoryError" not in str(error), error
"""
    folder = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (folder, folder.parent, folder.parents[1])))}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


DOUBLED = b")\x85" + b"2\x86" * 100  # a tuple of a tuple twice of ...: 2**100 elements
ENDLESS = {
    "key": b"}" + DOUBLED + b"K\1s.",
    "keys": b"}(" + DOUBLED + b"K\1u.",
    "dict": b"(" + DOUBLED + b"K\1d.",
    "set": b"}K\1\x8f(" + DOUBLED + b"\x90s.",
    "frozenset": b"}K\1(" + DOUBLED + b"\x91s.",
    "dtype": b"}K\1cnumpy\ndtype\n" + DOUBLED + b"\x85Rs.",
    "encoded": b"}K\1c_codecs\nencode\n" + DOUBLED + b"X\6\0\0\0latin1\x86Rs.",
    "integer": b"}\x8a\x09" + (5 * (2**61 - 1)).to_bytes(9, "little") + b"K\1s.",  # many of these have one hash
    "dimensions": pickle.dumps({1: array((1 << 60,) * 300_000)}),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_no_file_takes_endless_time_to_hash_print_or_multiply(name):
    with pytest.raises(DataError, match="file: "):
        unpickle(b"\x80\x04" + ENDLESS[name], where="file")


def test_every_truncation_is_noticed():
    data = pickle.dumps({"data": np.arange(50, dtype=np.uint8), "labels": list(range(5))}, 2)
    for cut in range(len(data)):
        with pytest.raises(DataError, match="batch: "):
            unpickle(data[:cut], where="batch")


@pytest.mark.parametrize("protocol", [2, 5])
def test_damage_gives_a_data_error_or_plain_values(protocol):
    whole = pickle.dumps({"data": np.arange(9, dtype=np.uint8), "labels": [1, np.int64(2)], "name": "x"}, protocol)
    generator = random.Random(0)
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            value = unpickle(bytes(data), where="file")
        except DataError as error:
            assert str(error).startswith("file: ")
        else:
            assert isinstance(value, dict)


def test_another_type_than_a_dict_is_refused():
    with pytest.raises(DataError, match="a pickled list; expected a dict"):
        unpickle(pickle.dumps([1]), where="file")
