"""How a tile of pairs is summed: a `Backend` each for compiled code, Numba, CUDA and the NumPy reference."""

from __future__ import annotations

from fastnw.backends.backend import Backend, GradientTiles
from fastnw.backends.compiled.backend import BACKEND as COMPILED
from fastnw.backends.cuda import interop as _interop  # noqa: F401  registers arrays on CUDA devices
from fastnw.backends.cuda.backend import BACKEND as CUDA
from fastnw.backends.numba.backend import BACKEND as NUMBA
from fastnw.backends.reference import BACKEND as REFERENCE
from fastnw.kernels.kernel import Kernel

NAMES = ("auto", "compiled", "numba", "cuda", "reference")
# The fastest for arrays in the host's memory come first.
_BUILT = {backend.name: backend for backend in (COMPILED, NUMBA, REFERENCE, CUDA)}
COMPILING_PAIRS = 3e7  # NumPy sums so many in a second or two, the time that it takes to compile a kernel


def choose(name: str, kernel: Kernel, pairs: float) -> Backend:
    """The backend of that name, or for ``"auto"`` the fastest that runs the kernel on so many pairs.

    Raises
    ------
    ValueError
        If the name is unknown, or the forced backend is missing or cannot run the kernel; the message says why.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"Unknown backend {name!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    if name == "auto":
        ready = (b for b in _BUILT.values() if b.device == "host" and (pairs >= COMPILING_PAIRS or not b.compiles))
        return next(backend for backend in ready if backend.refusal(kernel) is None)
    reason = _BUILT[name].refusal(kernel)
    if reason is not None:
        raise ValueError(f"backend={name!r} cannot run this: {reason}.")
    return _BUILT[name]


def gradients(name: str, kernel: Kernel) -> GradientTiles:
    """The gradient tiles of that backend, or for ``"auto"`` of the fastest; NumPy's where it cannot run the kernel."""
    candidates = _BUILT.values() if name == "auto" else (_BUILT[name], REFERENCE)
    return next(b.gradients for b in candidates if b.gradients is not None and b.gradients.runs(kernel))


def get(name: str) -> Backend:
    """The backend of that name, whether it can run here or not."""
    return _BUILT[name]


def available() -> dict[str, str]:
    """Each backend's name and the instruction set it runs on, or why it is missing."""
    status = {}
    for name in NAMES[1:]:
        missing = _BUILT[name].missing()
        status[name] = _BUILT[name].isa() if missing is None else f"missing: {missing}"
    return status
