"""How a tile of pairs is summed: one `Backend` for each of compiled code, Numba, CUDA and the NumPy reference."""

from __future__ import annotations

from fastnw.backends.backend import Backend
from fastnw.backends.compiled import backend as compiled
from fastnw.backends.cuda import backend as cuda
from fastnw.backends.cuda import interop as _interop  # noqa: F401  registers arrays on CUDA devices
from fastnw.backends.numba import backend as numba
from fastnw.backends.reference import BACKEND as REFERENCE
from fastnw.kernels.kernel import Kernel

NAMES = ("auto", "compiled", "numba", "cuda", "reference")
# the fastest for arrays in the host's memory first
_BUILT = {backend.name: backend for backend in (compiled.BACKEND, numba.BACKEND, REFERENCE, cuda.BACKEND)}
COMPILING = 3e7  # pairs that NumPy sums in a second or two, the time that Numba takes to compile a kernel


def choose(name: str, kernel: Kernel, pairs: float) -> Backend:
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


def get(name: str) -> Backend:
    """The backend of that name, whether it can run here or not."""
    return _BUILT[name]


def available() -> dict[str, str]:
    """Each backend's name and what it runs on, or why it is missing."""
    status = {}
    for name in NAMES[1:]:
        missing = _BUILT[name].missing()
        status[name] = _BUILT[name].isa() if missing is None else f"missing: {missing}"
    return status
