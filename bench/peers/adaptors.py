"""One adaptor for each system: what it needs, which cases it refuses, and the work to be timed.

`prepare(case)` does what a user does once for a set of keys (packing, trees, compilation) and returns a `Work`, a call
without arguments that answers all queries of the case. Every system may use the same number of threads.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from bench.lib import systems
from bench.peers.adaptor import BY_PRODUCT, Peer, Work, query_blocks
from bench.peers.torch_adaptors import TorchCdist, TorchSDPA

MAX_DENSITY_D = 16  # trees and products of one-dimensional kernels are not made for more coordinates


class FastNW(Peer):
    name = systems.FASTNW
    module = "fastnw"
    first_queries = 256  # as for SDPA

    def refuses(self, case):
        return None

    def prepare(self, case):
        import fastnw

        queries, keys, values = case.problem()
        options = {"bandwidth": case.bandwidth, "kernel": self.kernel(case), "method": "exact", "empty": 0.0}
        options["backend"] = self.backend(case)  # a missing backend is an error, not a reason to take a slower one
        if case.fitted:
            # `fit` prepares the keys once, as the peers' `prepare` does.
            model = fastnw.NadarayaWatsonRegressor(**options).fit(keys, values)
            return Work(lambda: model.predict(queries), "keys prepared by fit")
        return Work(lambda: fastnw.pool(queries, keys, values, progress=False, **options))

    def kernel(self, case):
        import fastnw

        return case.kernel if case.kernel in fastnw.kernels.names() else fastnw.Kernel("student", student)

    def backend(self, case):
        return case.backend


def student(u2):
    """A kernel as a user would write it."""
    return 1 / (1 + u2) ** 2


class FastNWCompiled(FastNW):
    """The rival of the other backends."""

    name = systems.FASTNW_COMPILED

    def backend(self, case):
        return "compiled"


class FastNWExact(FastNW):
    """The rival of the methods that do not sum every pair."""

    name = systems.FASTNW_EXACT


class FastNWGaussian(FastNW):
    """The rival of compact kernels and of users' kernels: same data, bandwidth and backend."""

    name = systems.FASTNW_GAUSSIAN

    def answers(self, case):
        return replace(case, kernel="gaussian")

    def kernel(self, case):
        return "gaussian"


class NumPyDifferences(Peer):
    name = systems.NUMPY
    note = "blocks of (queries, keys, d) differences"

    def prepare(self, case):
        queries, keys, values = case.problem()
        scale = keys.dtype.type(-0.5 / case.bandwidth**2)

        def call():
            means = []
            for rows in query_blocks(case.m, case.n * case.d):
                weights = np.exp(scale * ((queries[rows, None] - keys) ** 2).sum(axis=2))
                means.append((weights @ values) / _column(weights.sum(axis=1), values))
            return np.concatenate(means)

        return Work(call)


class NumPyProduct(Peer):
    name = systems.NUMPY_PRODUCT
    note = "|q|² + |k|² − 2 q·k; loses digits far from the origin"
    tolerance = BY_PRODUCT

    def prepare(self, case):
        queries, keys, values = case.problem()
        scale = keys.dtype.type(-0.5 / case.bandwidth**2)
        squares = (keys**2).sum(axis=1)  # once for a set of keys

        def call():
            means = []
            for rows in query_blocks(case.m, case.n):
                q = queries[rows]
                weights = q @ keys.T
                weights *= -2
                weights += squares
                weights += (q**2).sum(axis=1)[:, None]
                weights *= scale
                np.exp(weights, out=weights)
                means.append((weights @ values) / _column(weights.sum(axis=1), values))
            return np.concatenate(means)

        return Work(call, "|k|² packed once")


def _column(mass: np.ndarray, values: np.ndarray) -> np.ndarray:
    return mass if values.ndim == 1 else mass[:, None]


class RBFKernel(Peer):
    name = systems.RBF_KERNEL
    module = "sklearn"
    note = "blocks of rbf_kernel, then a product with the values"
    tolerance = BY_PRODUCT

    def prepare(self, case):
        from sklearn.metrics.pairwise import rbf_kernel

        queries, keys, values = case.problem()
        gamma = 0.5 / case.bandwidth**2

        def call():
            means = []
            for rows in query_blocks(case.m, case.n):
                weights = rbf_kernel(queries[rows], keys, gamma=gamma)
                means.append((weights @ values) / _column(weights.sum(axis=1), values))
            return np.concatenate(means)

        return Work(call)


class KeOps(Peer):
    name = systems.KEOPS
    module = "pykeops"
    note = "compiles a formula for 10 to 60 s at its first use: not timed"
    max_d = 128  # its formulas are unrolled over the coordinates

    def missing(self):
        import shutil

        if not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "pykeops needs a C++ compiler"
        return super().missing()

    def refuses(self, case):
        if case.d > self.max_d:
            return f"its formulas are unrolled: not compiled for d > {self.max_d}"
        return super().refuses(case)

    def prepare(self, case):
        from pykeops.numpy import LazyTensor

        queries, keys, values = case.problem()
        q, k = LazyTensor(queries[:, None].copy()), LazyTensor(keys[None].copy())
        v = LazyTensor(values.reshape(1, case.n, case.c).copy())
        exponent = ((q - k) ** 2).sum(-1) * (-0.5 / case.bandwidth**2)
        return Work(lambda: exponent.sumsoftmaxweight(v, axis=1))


class KernelReg(Peer):
    name = systems.KERNEL_REG
    module = "statsmodels.nonparametric.kernel_regression"
    note = "float64; one thread"

    def refuses(self, case):
        if case.c > 1:
            return "one value a key"
        return super().refuses(case)

    def prepare(self, case):
        from statsmodels.nonparametric.kernel_regression import KernelReg

        queries, keys, values = (array.astype(float) for array in case.problem())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its random state, which a given bandwidth does not use
            model = KernelReg(values, keys, "c" * case.d, reg_type="lc", bw=[case.bandwidth] * case.d)
        return Work(lambda: model.fit(queries)[0])


class DensityPeer(Peer):
    """A system that sums the kernel alone, which is less work for each pair than a regression."""

    def what(self):
        return "density"

    def refuses(self, case):
        if case.d > MAX_DENSITY_D:
            return f"not meant for d > {MAX_DENSITY_D}"
        return super().refuses(case)


class SklearnDensity(DensityPeer):
    name = systems.SKLEARN_KDE
    module = "sklearn"
    note = "density only, float64, rtol=1e-4; one thread; its tree is built before"
    tolerance = {"float32": 3e-4, "float64": 3e-4}

    def prepare(self, case):
        from sklearn.neighbors import KernelDensity

        queries, keys = (array.astype(float) for array in case.problem()[:2])
        model = KernelDensity(bandwidth=case.bandwidth, rtol=1e-4).fit(keys)
        return Work(lambda: np.exp(model.score_samples(queries)))


class Mlpack(DensityPeer):
    name = systems.MLPACK
    module = "mlpack"
    note = "density only, float64, dual tree, rel_error=1e-3; the keys' tree is built before"
    tolerance = {"float32": 1e-3, "float64": 1e-3}

    def prepare(self, case):
        import mlpack

        queries, keys = (array.astype(float) for array in case.problem()[:2])
        # mlpack reads the options at every call, with a model too, and reorders the caller's arrays unless it copies.
        options = {"bandwidth": case.bandwidth, "kernel": "gaussian", "rel_error": 1e-3, "copy_all_inputs": True}
        model = mlpack.kde(reference=keys, query=queries[:1], **options)["output_model"]
        return Work(lambda: mlpack.kde(input_model=model, query=queries, **options)["predictions"].ravel())


class KDEpyTree(DensityPeer):
    name = systems.KDEPY
    module = "KDEpy"
    note = "density only, float64, its default cut of the tails (errors of 1e-2); one thread"
    tolerance = {"float32": 2e-2, "float64": 2e-2}

    def prepare(self, case):
        from KDEpy import TreeKDE

        queries, keys = (array.astype(float) for array in case.problem()[:2])
        model = TreeKDE(kernel="gaussian", bw=case.bandwidth).fit(keys)
        return Work(lambda: model.evaluate(queries))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        FastNW(),
        FastNWGaussian(),
        FastNWCompiled(),
        FastNWExact(),
        TorchSDPA(),
        KeOps(),
        TorchCdist(),
        NumPyDifferences(),
        NumPyProduct(),
        RBFKernel(),
        KernelReg(),
        SklearnDensity(),
        Mlpack(),
        KDEpyTree(),
    )
}
