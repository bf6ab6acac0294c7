"""Writes the text of a device function for many coordinates: a tile of scores in registers, as in matrix products.

A block of threads has a tile of queries and a tile of keys. A thread has some of both, and all scores between them.
Coordinates pass through shared memory, `PART` at a time. A single value is weighted in registers, and each column of
threads has its own state. For several values, a tile of κ in shared memory is multiplied by a tile of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastnw.backends.cuda.functions import Formula
from fastnw.backends.cuda.source import (
    ARGUMENTS,
    LANES,
    PART,
    Spec,
    folded,
    fresh_sums,
    indented,
    of_query,
    pair,
    shared,
    written,
)

UNROLLED_COORDINATES = 4  # per iteration, so that the loop's own instructions are few beside them


@dataclass(frozen=True)
class Tile:
    """`across` × `down` threads, and the numbers of keys and queries of each thread. All are powers of two."""

    across: int
    down: int
    keys: int
    queries: int

    @property
    def block_keys(self) -> int:
        return self.across * self.keys

    @property
    def block_queries(self) -> int:
        return self.down * self.queries

    @property
    def threads(self) -> int:
        return self.across * self.down

    @property
    def values(self) -> int:
        """Number of values that a block sums at a time, where there are several."""
        return self.across * LANES


def wide(spec: Spec, tile: Tile, formula: Formula) -> str:
    """The text for many coordinates."""
    return "\n".join(indented(_wide(spec, tile, formula))) + "\n"


def _wide(spec: Spec, tile: Tile, formula: Formula) -> Iterator[str]:
    many = spec.values > 1
    inner = Spec(**{**spec.__dict__, "values": 0}) if many else spec  # for sums that are kept in registers
    yield f"def kernel({ARGUMENTS}):"
    yield ">" + shared("qs", PART, tile.block_queries)
    yield ">" + shared("ks", PART, tile.block_keys)
    if many:
        yield ">" + shared("ys", tile.block_queries, tile.block_keys)
        yield ">" + shared("vs", tile.values, tile.block_keys + LANES)  # padding makes rows begin in different banks
    yield ">thread = cuda.threadIdx.x"
    yield f">across = thread & {tile.across - 1}"
    yield f">down = thread >> {tile.across.bit_length() - 1}"
    yield ">chunk = cuda.blockIdx.z"
    yield ">m = out.shape[1]"
    yield ">padded = inverse.shape[0]"
    yield f">base = cuda.blockIdx.x * {tile.block_queries}"
    for a in range(tile.queries):
        yield f">row{a} = min(base + down * {tile.queries} + {a}, m - 1)"
        if spec.form == "norms":
            yield f">n{a} = queries[padded, row{a}]"
        yield from (">" + line for line in of_query(inner, str(a), f"row{a}"))
        if many:
            yield from (f">o{a}_{v} = 0.0" for v in range(LANES))
    yield ">begin = cuda.blockIdx.y * per_split"
    yield ">end = min(count, begin + per_split)"
    yield f">for start in range(begin, end, {tile.block_keys}):"
    yield from (">>" + line for line in _scores(spec, tile))
    yield from (">>" + line for line in _weighed(inner, tile, formula))
    if many:
        yield from (">>" + line for line in _many(spec, tile))
    for a in range(tile.queries):
        yield f">if base + down * {tile.queries} + {a} < m:"
        split = f"cuda.blockIdx.y * {tile.across} + across"
        yield from (">>" + line for line in written(inner, str(a), f"row{a}", split, "chunk"))
        if many:
            place = f"out[cuda.blockIdx.y * {tile.across}, row{a}, {1 + bool(spec.errors)} + chunk * {tile.values}"
            yield from (f">>{place} + {v * tile.across} + across] += o{a}_{v}" for v in range(LANES))


def _filled(name: str, source: str, width: int, threads: int, first: str) -> Iterator[str]:
    """Fills a tile with `PART` coordinates from coordinate `c` on."""
    bits = width.bit_length() - 1
    yield f"for i in range(thread, {PART * width}, {threads}):"
    yield f">r = i >> {bits}"
    yield f">x = i & {width - 1}"
    yield f">{name}[r, x >> 2, x & 3] = {source}[c + r, {first} + x]"


def _scores(spec: Spec, tile: Tile) -> Iterator[str]:
    """Computes u{a}_{i} for each query and key of the thread."""
    lanes = [(a, i) for a in range(tile.queries) for i in range(tile.keys)]
    yield from (f"u{a}_{i} = ZERO" for a, i in lanes)
    yield f"for c in range(0, padded, {PART}):"
    yield ">cuda.syncthreads()"
    yield from (">" + line for line in _filled("qs", "queries", tile.block_queries, tile.threads, "base"))
    yield from (">" + line for line in _filled("ks", "table", tile.block_keys, tile.threads, "start"))
    yield ">cuda.syncthreads()"
    differences = spec.form in ("one", "each")
    if differences:
        yield from (f">p{a}_{i} = ZERO" for a, i in lanes)
    sums = "p" if differences else "u"
    yield ">j = 0"
    yield f">while j < {PART}:"  # not unrolled further: numba would take ten seconds to compile it
    for step in range(UNROLLED_COORDINATES):
        for a in range(tile.queries):
            yield f">>q{a}_{step} = qs[j + {step}, down * {tile.queries // LANES} + {a // LANES}, {a % LANES}]"
        for i in range(tile.keys):
            yield f">>k{i}_{step} = ks[j + {step}, across + {i // LANES * tile.across}, {i % LANES}]"
        if spec.form == "each":
            yield f">>v{step} = inverse[c + j + {step}]"
        for a, i in lanes:
            q, k = f"q{a}_{step}", f"k{i}_{step}"
            if differences:
                scale = f" * v{step}" if spec.form == "each" else ""
                yield f">>x{a}_{i}_{step} = ({q} - {k}){scale}"
                q = k = f"x{a}_{i}_{step}"
            yield f">>{sums}{a}_{i} += {q} * {k}"
    yield f">>j += {UNROLLED_COORDINATES}"
    if differences:
        yield from (f">u{a}_{i} += p{a}_{i}" for a, i in lanes)


def _weighed(spec: Spec, tile: Tile, formula: Formula) -> Iterator[str]:
    """Computes κ of each pair, y{a}_{i}, and the sums that need no other thread."""
    row = 0
    places = {i: f"across * {LANES} + {i // LANES * LANES * tile.across + i % LANES}" for i in range(tile.keys)}
    for i, place in places.items():
        yield f"valid_{i} = start + {place} < end"
    if spec.form == "norms":
        yield from (f"nk_{i} = table[padded, start + {place}]" for i, place in places.items())
        row += 1
    for name in (["scale"] if spec.scaled else []) + (["w"] if spec.weighted else []):
        yield from (f"{name}_{i} = table[padded + {row}, start + {place}]" for i, place in places.items())
        row += 1
    for v in range(spec.values):
        yield from (f"t{v}v_{i} = table[padded + {row + v}, start + {place}]" for i, place in places.items())
    for a in range(tile.queries):
        yield from fresh_sums(spec, str(a))
        if spec.own:
            yield f"own{a} = self{a} - start"
        for i, place in places.items():
            if spec.form == "norms":
                yield f"u{a}_{i} = (n{a} + nk_{i}) - TWO * u{a}_{i}"
            yield from pair(spec, formula, str(a), str(i), place)
        yield from folded(spec, str(a))


def _many(spec: Spec, tile: Tile) -> Iterator[str]:
    """Multiplies the tile of κ by the tile of values. The next tile begins with the synchronisation that follows it."""
    for a in range(tile.queries):
        for i in range(tile.keys):
            group = f"across + {i // LANES * tile.across}"
            yield f"ys[down * {tile.queries} + {a}, {group}, {i % LANES}] = y{a}_{i}"
    rows = f"padded + {(spec.form == 'norms') + spec.scaled + spec.weighted} + chunk * {tile.values}"
    yield f"for i in range(thread, {tile.block_keys * tile.values}, {tile.threads}):"
    yield f">r = i >> {tile.block_keys.bit_length() - 1}"
    yield f">x = i & {tile.block_keys - 1}"
    yield f">vs[r, x >> 2, x & 3] = table[{rows} + r, start + x]"
    yield "cuda.syncthreads()"
    outputs = [(a, v) for a in range(tile.queries) for v in range(LANES)]
    yield from (f"z{a}_{v} = ZERO" for a, v in outputs)
    yield f"for g in range({tile.block_keys // LANES}):"
    for a in range(tile.queries):
        yield from (f">y{a}_{i} = ys[down * {tile.queries} + {a}, g, {i}]" for i in range(LANES))
    for v in range(LANES):
        yield from (f">t{i} = vs[{v * tile.across} + across, g, {i}]" for i in range(LANES))
        yield from (f">z{a}_{v} += y{a}_{i} * t{i}" for i in range(LANES) for a in range(tile.queries))
    yield from (f"o{a}_{v} += double(z{a}_{v})" for a, v in outputs)
