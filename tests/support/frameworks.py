"""The frameworks whose arrays fastnw takes, and each one's words for what the chapter's cells are made of.

Tests of a framework that is not installed are skipped by its name; `FASTNW_FRAMEWORKS=torch,jax` makes the absence of
one of these an error.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

NAMES = ("torch", "jax", "tensorflow", "mxnet", "cupy")


def require_listed():
    """Import what FASTNW_FRAMEWORKS names.

    Raises
    ------
    ImportError
        One of them is not there, or none of ours.
    """
    for name in filter(None, os.environ.get("FASTNW_FRAMEWORKS", "").split(",")):
        if name not in NAMES:
            raise ImportError(f"FASTNW_FRAMEWORKS names {name!r}; there are {', '.join(NAMES)}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of themselves
            importlib.import_module(name)


def module(name):
    """The framework, or a skip; JAX with float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip(name)
    if name == "jax":
        found.config.update("jax_enable_x64", True)
    if name == "mxnet":
        found.npx.set_np()
    if name == "cupy" and found.cuda.runtime.getDeviceCount() == 0:
        pytest.skip("CuPy finds no GPU")
    return found


@dataclass(frozen=True)
class Framework:
    """A framework's words. `xp` has `exp`, `abs`, `maximum`, `zeros_like`, `reshape`; arrays are made from NumPy's."""

    name: str
    kind: Any
    xp: Any
    array: Callable[[Any], Any]
    numpy: Callable[[Any], np.ndarray]
    device: Callable[[Any], Any]
    astype: Callable[[Any, Any], Any]  # of an array, and of another one whose type it takes
    reduce_sum: Callable[[Any], Any]  # over the first axis
    matmul: Callable[[Any, Any], Any]  # of a vector and a matrix


def load(name):
    """The framework of that name, or a skip."""
    found = module(name)
    if name == "torch":
        return Framework(
            name,
            found.Tensor,
            found,
            lambda a: found.from_numpy(np.array(a)),
            lambda a: a.numpy(force=True),
            lambda a: a.device,
            lambda a, like: a.to(like.dtype),
            lambda a: a.sum(0),
            lambda a, b: a @ b,
        )
    if name == "tensorflow":
        return Framework(
            name,
            found.Tensor,
            found,
            found.convert_to_tensor,
            lambda a: a.numpy(),
            lambda a: a.device,
            lambda a, like: found.cast(a, like.dtype),
            lambda a: found.reduce_sum(a, 0),
            lambda a, b: found.reshape(found.matmul(a[None, :], b), (-1,)),
        )
    xp, kind, array, numpy, device = {
        "jax": lambda: (found.numpy, found.Array, found.numpy.asarray, np.asarray, lambda a: a.devices()),
        "mxnet": lambda: (
            found.np,
            found.np.ndarray,
            lambda a: found.np.array(a, dtype=np.asarray(a).dtype),
            lambda a: a.asnumpy(),
            lambda a: a.ctx,
        ),
        "cupy": lambda: (found, found.ndarray, found.asarray, lambda a: a.get(), lambda a: a.device),
    }[name]()
    return Framework(
        name,
        kind,
        xp,
        array,
        numpy,
        device,
        lambda a, like: a.astype(like.dtype),
        lambda a: a.sum(0),
        lambda a, b: xp.dot(a, b),
    )
