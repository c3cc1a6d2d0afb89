"""Checksums that verify a checkpoint."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cifar_jax.errors import DataError


def leaf_checksums(state: Any) -> dict[str, dict]:
    """Shape, dtype and sha256 of the bytes of every leaf, by its path, such as 'params/conv1/kernel'."""

    leaves = jax.tree.leaves_with_path(jax.tree.map(_on_host, state))
    return {
        _name(path): {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "sha256": hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)).hexdigest(),
        }
        for path, leaf in leaves
    }


def _on_host(x) -> np.ndarray:
    """The whole array, of which other processes may have parts: then all of them must call this."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(
        x.addressable_data(0) if x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)
    )


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def require_same_leaves(saved: Mapping[str, Mapping], abstract_state: Any, where: pathlib.Path) -> None:
    """Raises DataError, listing all problems, if a checkpoint does not have the leaves that a model needs."""
    expected = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract_state)}
    problems = [f"{name} is missing" for name in expected if name not in saved]
    problems += [f"{name} is unexpected" for name in saved if name not in expected]
    for name in expected.keys() & saved.keys():
        saved_type = f"{saved[name]['dtype']}{list(saved[name]['shape'])}"
        expected_type = f"{expected[name].dtype}{list(expected[name].shape)}"
        if saved_type != expected_type:
            problems.append(f"{name} is {saved_type}, not {expected_type}")
    if problems:
        raise DataError(f"checkpoint {where} belongs to another model or optimizer: {listed(sorted(problems))}")


def listed(names: Sequence[str]) -> str:
    """The first eight names, and the number of the others."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
