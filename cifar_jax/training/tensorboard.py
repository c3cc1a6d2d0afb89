"""TensorBoard event files, written without TensorFlow, PyTorch or a thread that could block the run.

A file is a sequence of TFRecords (length, content and a checksum of each); a content is an `Event` in the binary format
of Protocol Buffers: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
"""

import os
import socket
import struct
import time
from pathlib import Path

from cifar_jax.training.hooks import Hook

FLUSH_SECONDS = 30


class TensorBoard(Hook):
    """Writes the metrics of the training loop as scalars per step."""

    optional = "TensorBoard's event file"

    def __init__(self, directory: Path):
        self._directory = directory

    def on_start(self, *, first_step: int, **steps: int) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self._directory / name, "ab")  # noqa: SIM115
        self._write(0, _field(3, b"brain.Event:2"))
        # A new session: TensorBoard hides what an interrupted run wrote after the step from which this one resumes.
        self._write(first_step, _field(7, _field(1, 1)))
        self._flush()

    def on_log(self, step: int, values: dict[str, float]) -> None:
        self._scalars(step, {f"train/{name}": values[name] for name in ("loss", "accuracy", "learning_rate")})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def on_epoch(self, step: int, row: dict[str, float]) -> None:
        self._scalars(step, {name: value for name, value in row.items() if name != "epoch"})
        self._flush()

    def close(self) -> None:
        self._file.close()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        scalars = [_field(1, name.encode()) + _field(2, float(value)) for name, value in values.items()]
        self._write(step, _field(5, b"".join(_field(1, scalar) for scalar in scalars)))

    def _write(self, step: int, content: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + _field(2, step) + content  # field 1 is a double
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()


def _field(number: int, value: int | float | bytes) -> bytes:
    """A field of a Protocol Buffer: an integer (0 to 2**63), a float of 32 bits, or a string or message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first; all bytes but the last have the highest bit set."""
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C of TFRecords."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = [_crc32c_of_byte(byte) for byte in range(256)]
