"""How a tile is summed: siblings with one signature.

Each module has ``NAME``, ``refusal(kernel)`` (why it cannot run a kernel, or None), ``isa()``, and

``sum_tile(kernel, queries, keys, inverse, own, state, error)``
    Add a key block's sums to a query block's `PoolState`, in place. ``queries`` (m, d) and ``inverse`` (d,) are of the
    keys' type; ``own`` (m,) int64 are the positions within the block of keys to leave out, or None; ``error`` (m,)
    bounds the relative error of u² (the absolute one below 1), from which compact and user kernels fill `mass_error`.
    For the other kernels the method bounds it from the sums.
``sum_several(profiles, queries, keys, inverse, own, states, error)``
    The same for several ``profiles``, pairs of a kernel and a factor of `inverse` (so a bandwidth is divided by it), in
    one pass over the distances where that saves anything; ``states`` has one a profile.
``score_tile(kernel, queries, keys, inverse)``
    (m, B) array of u²; for inner products, of the scaled product.

A backend that keeps its queries elsewhere than in the host's memory has ``sweep``, which sums all keys for them at
once, and ``by_products(problem, dtype)``, whether it takes u² from matrix products there.
"""

from __future__ import annotations

from types import ModuleType

from fastnw.backends import compiled, cuda, reference
from fastnw.kernels import Kernel

NAMES = ("auto", "compiled", "numba", "cuda", "reference")
_BUILT: dict[str, ModuleType] = {"compiled": compiled, "cuda": cuda, "reference": reference}
_FOR_HOST_ARRAYS = ("compiled", "reference")  # the fastest first


def choose(name: str, kernel: Kernel) -> ModuleType:
    """The backend of that name, or for ``"auto"`` the fastest that runs the kernel.

    Raises
    ------
    ValueError
        Unknown name, or a forced backend that is missing or cannot run the kernel; the message says why.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"Unknown backend {name!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    if name == "auto":
        return next(_BUILT[each] for each in _FOR_HOST_ARRAYS if _BUILT[each].refusal(kernel) is None)
    if name not in _BUILT:
        raise ValueError(
            f"backend={name!r} is not part of this version of fastnw; it has {', '.join(map(repr, _BUILT))}."
        )
    reason = _BUILT[name].refusal(kernel)
    if reason is not None:
        raise ValueError(f"backend={name!r} cannot run this: {reason}.")
    return _BUILT[name]


def available() -> dict[str, str]:
    """Each backend's name and what it runs on, or why it is missing."""
    status = {}
    for name in NAMES[1:]:
        if name not in _BUILT:
            status[name] = "not part of this version"
        else:
            missing = _BUILT[name].missing()
            status[name] = _BUILT[name].isa() if missing is None else f"missing: {missing}"
    return status
