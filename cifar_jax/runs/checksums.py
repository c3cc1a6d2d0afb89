"""Checksums that verify a checkpoint."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cifar_jax.errors import DataError


def leaf_checksums(state: Any) -> dict[str, dict]:
    """Shape, dtype and sha256 of the bytes of every leaf, by its path such as 'params/conv1/kernel'."""

    def local(x):
        return x.addressable_data(0) if isinstance(x, jax.Array) and x.is_fully_replicated else x

    leaves = jax.tree.leaves_with_path(jax.device_get(jax.tree.map(local, state)))
    return {
        _name(path): {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "sha256": hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)).hexdigest(),
        }
        for path, leaf in leaves
    }


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def json_checksum(value: Mapping) -> str:
    """sha256 of a JSON value; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def require_same_leaves(saved: Mapping[str, Mapping], abstract_state: Any, where: pathlib.Path) -> None:
    """Compares the leaves of a checkpoint with those that a model needs.

    Raises:
        DataError: naming the missing, the left over, and those of another shape or dtype, all at once.
    """
    expected = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract_state)}
    problems = [f"{name} is missing" for name in expected if name not in saved]
    problems += [f"{name} is left over" for name in saved if name not in expected]
    for name in expected.keys() & saved.keys():
        found = (saved[name]["dtype"], tuple(saved[name]["shape"]))
        needed = (str(expected[name].dtype), expected[name].shape)
        if found != needed:
            problems.append(f"{name} is {found[0]}{list(found[1])}, not {needed[0]}{list(needed[1])}")
    if problems:
        raise DataError(f"checkpoint {where} belongs to another model or optimizer: {listed(sorted(problems))}")


def listed(names: Sequence[str]) -> str:
    """The first eight, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
