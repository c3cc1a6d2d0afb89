"""JSON files of the project: written atomically, with a checksum of their content; checked on reading.

The checksum is the last entry of the object. A file without one (of an older version, or edited by hand) is read with a
warning.
"""

import functools
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from cifar_jax.config.keys import Range
from cifar_jax.errors import DataError, one_line
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.untrusted import open_regular

CHECKSUM = "checksum"
_LARGEST = 256 << 20  # bytes; the metrics of 1,000 classes take 20 MB

log = logging.getLogger(__name__)


def json_checksum(value: object) -> str:
    """sha256 of a JSON value; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def plain(value: object) -> object:
    """`value` as it is read from a JSON file: tuples become lists, keys become strings.

    Raises:
        ValueError: a number is not finite.
    """
    return json.loads(json.dumps(value, allow_nan=False))


def write_json(path: Path, value: Mapping, *, with_checksum: bool = True) -> None:
    """Writes `value` atomically and flushes it to disk.

    Raises:
        ValueError: a number in `value` is not finite.
        DataError: the file cannot be written, for example on a full disk.
    """
    value = plain(value)
    if with_checksum:
        value = value | {CHECKSUM: json_checksum(value)}
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path} could not be written: {error.strerror}") from error


def read_json(path: Path, form: object = None, *, with_checksum: bool = True) -> dict:
    """The content of a file, without its checksum.

    Args:
        form: what the content must be, see `problems`; None = any object.
        with_checksum: False for a file that has none; otherwise its absence is a warning.

    Raises:
        DataError: the file is missing, damaged, or its content is not what it must be.
    """
    content = load_object(path)
    checksum = content.pop(CHECKSUM, None)
    if checksum is not None and checksum != json_checksum(content):
        raise DataError(f"{path} is damaged: its content does not match its checksum")
    found = list(problems(content, {} if form is None else form))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise DataError(f"{path} is damaged, or of another version: {'; '.join(found[:3])}{more}")
    if checksum is None and with_checksum:
        warn_once(f"{path} has no checksum (edited, or written by an older version): errors in it cannot be detected")
    return content


def load_object(path: Path) -> dict:
    """The object in a JSON file, whatever it contains.

    Raises:
        DataError: the file cannot be read, or is not an object in JSON.
    """
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise DataError(f"{path} is damaged: more than {_LARGEST >> 20} MB")
        content = json.loads(text.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise DataError(f"{path} is damaged: too deeply nested") from None
    except ValueError as error:  # including text that is not UTF-8
        raise DataError(f"{path} is damaged: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: not an object in braces")
    return content


def problems(value: object, form: object, where: str = "") -> Iterator[str]:
    """What is wrong with a JSON value, one phrase per problem.

    Args:
        form: a `Range`; a dict of the forms of required keys (further keys are ignored); a list with the form of every
            element; or a tuple with the form of a value that may be None.
        where: the name of the value.
    """
    if isinstance(form, Range):
        if not form.allows(value):
            yield f"{where} is {_shown(value)}, must be {form.description}"
    elif isinstance(form, tuple):
        if value is not None:
            yield from problems(value, form[0], where)
    elif not isinstance(value, type(form)):
        kind = "a list" if isinstance(form, list) else "an object"
        yield f"{where or 'the content'} is {_shown(value)}, must be {kind}"
    elif isinstance(form, list):
        for number, element in enumerate(value):
            yield from problems(element, form[0], f"{where}[{number}]")
    else:
        for key, inner in form.items():
            name = f"{where}.{key}" if where else key
            if key in value:
                yield from problems(value[key], inner, name)
            elif not isinstance(inner, tuple):
                yield f"{name} is missing"


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _finite(digits: str) -> float:
    return value if math.isfinite(value := float(digits)) else _refuse(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no finite number")


@functools.cache
def warn_once(message: str) -> None:
    log.warning("%s", message)
