"""Errors that a user can fix. The command line prints each as one line and exits with its code."""

import unicodedata


class CifarJaxError(Exception):
    """An error whose message is one line: what is wrong, where, and how to fix it."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(printable(message))


class UsageError(CifarJaxError):
    """A wrong flag, configuration key, value or path."""

    exit_code = 2


class DataError(CifarJaxError):
    """Data, weights or a checkpoint that cannot be used."""


def is_out_of_memory(error: BaseException) -> bool:
    """Of the host or of a device (JAX raises a RuntimeError)."""
    text = str(error)
    return isinstance(error, MemoryError) or ("RESOURCE_EXHAUSTED" in text and "memory" in text.lower())


def printable(text: str) -> str:
    """The text with escapes for control characters and for bytes that are not UTF-8, which file names may have."""
    escaped = (ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return text if text.isprintable() else "".join(escaped)


def one_line(error: Exception | str) -> str:
    """The message of another library's error, short enough to be part of that line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
