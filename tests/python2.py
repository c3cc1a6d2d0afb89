"""Pickles as Python 2 wrote them, which Python 3 cannot write."""

import struct

import numpy as np


def python2_pickle(value) -> bytes:
    """Protocol 2 as Python 2 wrote it, text as byte strings: the form of the published archives."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value) -> bytes:
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    array = np.ascontiguousarray(value, np.uint8)
    dtype = b"cnumpy\ndtype\n" + _python2(("u1", 0, 1)) + b"R(" + _python2(3) + _python2("|")
    dtype += b"NNN" + _python2(-1) + _python2(-1) + _python2(0) + b"tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _python2((0,)) + _python2("b") + b"tR"
    raw = b"T" + struct.pack("<i", array.nbytes) + array.tobytes()
    return empty + b"(" + _python2(1) + _python2(array.shape) + dtype + b"\x89" + raw + b"tb"
