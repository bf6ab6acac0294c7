"""How a tile is summed: siblings with one signature.

Each module has ``NAME``, ``isa()``, ``missing()`` and ``refusal(kernel)`` (why it, or a kernel, cannot run), and

``bounds(kernel)``
    Whether its tiles fill `mass_error`, as for compact kernels; else the method bounds what the error of u² does.
``sum_tile(kernel, queries, keys, inverse, own, state, error)``
    Add a key block's sums to a query block's `PoolState`, in place. ``queries`` (m, d) and ``inverse`` (d,) are of the
    keys' type; ``own`` (m,) int64 are the positions within the block of keys to leave out, or None; ``error`` (m,)
    bounds the relative error of u² (the absolute one below 1).
``sum_several(profiles, queries, keys, inverse, own, states, error)``
    The same for several ``profiles``, pairs of a kernel and a factor of `inverse` (so a bandwidth is divided by it), in
    one pass over the distances where that saves anything; ``states`` has one a profile.
``score_tile(kernel, queries, keys, inverse)``
    (m, B) array of u²; for inner products, of the scaled product.

Compiled tiles also have ``sum_leaves``: each query of a block chooses leaves of a tree of keys and sums them. For the
others `methods.gathered` makes tiles of leaves. And they have the tiles of gradients, see `gradients`.

A backend that compiles at first use has ``prepare(kernel, inverse, c, scaled)``, which does it before threads begin.
A backend that keeps its queries elsewhere than in the host's memory has ``sweep``, which sums all keys for them at
once, and ``by_products(problem, dtype)``, whether it takes u² from matrix products there.
"""

from __future__ import annotations

from types import ModuleType

from fastnw.backends import compiled, cuda, numba_cpu, reference
from fastnw.kernels import Kernel

NAMES = ("auto", "compiled", "numba", "cuda", "reference")
# the fastest for arrays in the host's memory first
_BUILT: dict[str, ModuleType] = {"compiled": compiled, "numba": numba_cpu, "reference": reference, "cuda": cuda}
COMPILING = 3e7  # pairs that NumPy sums in a second or two, the time that Numba takes to compile a kernel


def choose(name: str, kernel: Kernel, pairs: float) -> ModuleType:
    """The backend of that name, or for ``"auto"`` the fastest that runs the kernel on so many pairs.

    Raises
    ------
    ValueError
        Unknown name, or a forced backend that is missing or cannot run the kernel; the message says why.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"Unknown backend {name!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    if name == "auto":
        passed_over = {"cuda", "numba"} if pairs < COMPILING else {"cuda"}
        return next(b for name, b in _BUILT.items() if name not in passed_over and b.refusal(kernel) is None)
    reason = _BUILT[name].refusal(kernel)
    if reason is not None:
        raise ValueError(f"backend={name!r} cannot run this: {reason}.")
    return _BUILT[name]


def available() -> dict[str, str]:
    """Each backend's name and what it runs on, or why it is missing."""
    status = {}
    for name in NAMES[1:]:
        missing = _BUILT[name].missing()
        status[name] = _BUILT[name].isa() if missing is None else f"missing: {missing}"
    return status
