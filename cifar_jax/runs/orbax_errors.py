"""Failures of Orbax and TensorStore as one-line messages; their own tracebacks are silenced."""

import logging
import os
import pathlib
import re
import sys

import orbax.checkpoint as ocp

# Orbax not only raises a failure, but also logs pages of traceback. When one read fails, it abandons the others, which
# end in tracebacks of asyncio and of TensorStore's threads.
_ORBAX_SOURCES = tuple(str(pathlib.Path(folder).resolve()) for folder in ocp.__path__)
_ABANDONED = ("Event loop is closed", "Encountered error while reading array index", "tensorstore", "orbax")
_previous_hook = sys.unraisablehook


def _is_ours(text: str) -> bool:
    return not any(sign in text for sign in _ABANDONED)


def _unraisable_hook(unraisable) -> None:
    if _is_ours(str(unraisable.exc_value)):
        _previous_hook(unraisable)


sys.unraisablehook = _unraisable_hook
logging.getLogger("absl").addFilter(lambda record: not record.pathname.startswith(_ORBAX_SOURCES))
logging.getLogger("asyncio").addFilter(lambda record: _is_ours(record.getMessage()))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def unreadable(error: Exception, where: pathlib.Path) -> str:
    """The damaged file or array, if TensorStore's nested errors name one (the innermost comes last)."""
    text = f"{error} {error.__cause__}"
    files = re.findall(r'local file "([^"]*[^"/])"', text)
    arrays = re.findall(r'"([^"/]+)/[^"/]*" in OCDBT database', text)
    if files:
        return f"its file {os.path.relpath(files[-1], where)} cannot be read"
    if arrays:
        return f"its array {arrays[-1]} cannot be read"
    return f"its state cannot be read ({type(error).__name__}: {first_line(error)})"


def cause(error: Exception) -> str:
    full = any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "No space left", "Disk quota exceeded"))
    return "the disk is full" if full else first_line(error)
