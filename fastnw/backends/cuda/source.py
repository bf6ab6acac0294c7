"""Writes the text of a device function for one formula, type, dimension and set of options, all of them as constants.

A thread keeps its queries and their sums in registers, which only straight-line code without indices guarantees. Keys
pass through shared memory coordinate by coordinate, four in a row for loads of 16 bytes. `TILE` keys are summed in the
compute type, then the sums are added to float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastnw.backends.cuda.functions import SIMULATED, Formula

TILE = 256  # keys summed before they are added to float64; `certify.MAX_SEQUENTIAL_TERMS` bounds it
MAX_TILE_BYTES = 36 << 10  # of shared memory: six blocks fit a multiprocessor, four on older devices
PART = 8  # squares of coordinates that are summed separately; `score_error` bounds their rounding errors
LANES = 4  # keys per load

ARGUMENTS = "queries, table, count, first, inverse, factor, shift, edge, error, own, per_split, out"


@dataclass(frozen=True)
class Spec:
    """The specification of a device function.

    Attributes
    ----------
    dtype : str
        Compute type.
    d : int
        Number of coordinates; 0 in `wide`, which takes any multiple of `PART`.
    values : int
        Number of values per key that are summed at a time.
    queries : int
        Number of queries per thread.
    form : str
        How scores are computed: from differences with "one" bandwidth or with "each" coordinate's own, as "dot"
        products, or from "norms" as |q|² + |k|² − 2 q·k.
    scaled, weighted, own : bool
        Whether keys have scales, whether they have weights, and whether each query leaves out a key.
    task : str
        "sum" of κ, sum of "shifted" exp(log κ − shift), or "max" of log κ over keys with weight.
    support : float or None
        The u² beyond which κ is 0.
    guarded : bool
        Whether κ is evaluated only where u² is finite.
    errors : str
        What bounds the error of a mass: "window" the weight of the keys up to the edge, "nudged" the change of κ
        within the error of u²; "" if the host computes the bound.
    """

    dtype: str
    d: int
    values: int
    queries: int
    form: str
    scaled: bool
    weighted: bool
    own: bool
    task: str
    support: float | None
    guarded: bool
    errors: str
    threads: int

    @property
    def fixed(self) -> int:
        """Number of rows of the table of keys above the values."""
        return self.d + self.scaled + self.weighted

    @property
    def tile(self) -> int:
        """Number of keys in shared memory at a time."""
        bytes_per_key = (self.fixed + self.values) * (4 if self.dtype == "float32" else 8)
        return max(size for size in (TILE, TILE // 2, TILE // 4) if size * bytes_per_key <= MAX_TILE_BYTES)


def near(spec: Spec, formula: Formula) -> str:
    """The text for few coordinates: a thread has `spec.queries` queries, and the threads of a block share the keys."""
    return "\n".join(indented(_near(spec, formula))) + "\n"


def indented(lines: Iterator[str]) -> Iterator[str]:
    """Indents each line by its number of leading '>'."""
    for line in lines:
        bare = line.lstrip(">")
        yield "    " * (len(line) - len(bare)) + bare


def shared(name: str, rows: int, width: int) -> str:
    """An array in shared memory for rows of keys, in groups of `LANES`."""
    alignment = "" if SIMULATED else ", alignment=16"
    return f"{name} = cuda.shared.array(({rows}, {width // LANES}, {LANES}), dtype{alignment})"


def _near(spec: Spec, formula: Formula) -> Iterator[str]:
    yield f"def kernel({ARGUMENTS}):"
    yield ">" + shared("tile", spec.fixed + spec.values, spec.tile)
    yield ">thread = cuda.threadIdx.x"
    yield ">chunk = cuda.blockIdx.z"
    yield ">m = out.shape[1]"
    yield f">base = cuda.blockIdx.x * {spec.threads * spec.queries} + thread"
    for a in range(spec.queries):
        yield f">row{a} = min(base + {a * spec.threads}, m - 1)"
        for j in range(spec.d):
            scaled = f" * inverse[{j}]" if spec.form == "dot" else ""
            yield f">q{a}_{j} = queries[row{a}, {j}]{scaled}"
        yield from (">" + line for line in of_query(spec, str(a), f"row{a}"))
    if spec.form == "each":
        yield from (f">v{j} = inverse[{j}]" for j in range(spec.d))
    yield ">begin = cuda.blockIdx.y * per_split"
    yield ">end = min(count, begin + per_split)"
    yield f">for start in range(begin, end, {spec.tile}):"
    yield f">>size = min({spec.tile}, end - start)"
    yield ">>cuda.syncthreads()"
    yield f">>for i in range(thread, size, {spec.threads}):"
    for r in range(spec.fixed):
        yield f">>>tile[{r}, i >> 2, i & 3] = table[{r}, start + i]"
    for v in range(spec.values):
        yield f">>>tile[{spec.fixed + v}, i >> 2, i & 3] = table[{spec.fixed + v} + chunk * {spec.values}, start + i]"
    yield ">>cuda.syncthreads()"
    for a in range(spec.queries):
        yield from (">>" + line for line in fresh_sums(spec, str(a)))
    width = _width(spec)
    yield ">>k = 0"
    yield f">>while k <= size - {width}:"  # numba's range adds instructions to each pair
    yield from (">>>" + line for line in _pairs(spec, formula, width))
    yield f">>>k += {width}"
    yield ">>while k < size:"
    yield from (">>>" + line for line in _pairs(spec, formula, 1))
    yield ">>>k += 1"
    yield from (">>" + line for a in range(spec.queries) for line in folded(spec, str(a)))
    for a in range(spec.queries):
        yield f">if base + {a * spec.threads} < m:"
        yield from (">>" + line for line in written(spec, str(a), f"row{a}", "cuda.blockIdx.y", "chunk"))


def of_query(spec: Spec, a: str, row: str) -> Iterator[str]:
    """Loads the numbers that belong to a query and initialises its sums."""
    if spec.task == "shifted":
        yield f"shift{a} = shift[{row}]"
    if spec.errors == "window":
        yield f"edge{a} = edge[{row}]"
    if spec.errors == "nudged":
        yield f"error{a} = error[{row}]"
    if spec.own:
        yield f"self{a} = own[{row}] - first"
    if spec.task == "max":
        yield f"best{a} = LOWEST"
        return
    yield f"mass{a} = 0.0"
    if spec.errors:
        yield f"bound{a} = 0.0"
    yield from (f"total{a}_{v} = 0.0" for v in range(spec.values))


def fresh_sums(spec: Spec, a: str) -> Iterator[str]:
    """Initialises the sums of a tile, in the compute type."""
    if spec.task == "max":
        return
    yield f"m{a} = ZERO"
    if spec.errors:
        yield f"b{a} = ZERO"
    yield from (f"s{a}_{v} = ZERO" for v in range(spec.values))


def folded(spec: Spec, a: str) -> Iterator[str]:
    """Adds the sums of a tile to those in float64."""
    if spec.task == "max":
        return
    yield f"mass{a} += double(m{a})"
    if spec.errors:
        yield f"bound{a} += double(b{a})"
    yield from (f"total{a}_{v} += double(s{a}_{v})" for v in range(spec.values))


def written(spec: Spec, a: str, row: str, split: str, chunk: str) -> Iterator[str]:
    """Adds the sums of a query to its state."""
    place = f"out[{split}, {row}, "
    if spec.task == "max":
        yield f"{place}0] = max({place}0], double(best{a}))"
        return
    columns = [("mass" + a, "0")] + ([("bound" + a, "1")] if spec.errors else [])
    yield f"if {chunk} == 0:"
    yield from (f">{place}{at}] += {name}" for name, at in columns)
    for v in range(spec.values):
        yield f"{place}{len(columns) + v} + {chunk} * {spec.values}] += total{a}_{v}"


def _width(spec: Spec) -> int:
    """Number of keys per iteration: more where a pair takes few instructions beside those of the loop."""
    return 2 * LANES if spec.d <= 4 and spec.values <= 1 and not spec.errors else LANES


def _pairs(spec: Spec, formula: Formula, width: int) -> Iterator[str]:
    """Sums the `width` keys from `k` on for the queries of the thread."""
    if width > 1:
        yield "g = k >> 2"

    def load(row: int, name: str) -> Iterator[str]:
        if width == 1:
            yield f"{name}_r = tile[{row}, k >> 2, k & 3]"
            return
        for i in range(width):
            yield f"{name}_{i} = tile[{row}, g + {i // LANES}, {i % LANES}]"

    # Names differ between the two loops: numba's compile time grows with the square of the names assigned twice.
    lanes = [(a, i if width > 1 else "r") for a in range(spec.queries) for i in range(width)]
    for j in range(spec.d):
        yield from load(j, "k")
        for a, i in lanes:
            yield from coordinate(spec, f"{a}_{i}", f"q{a}_{j}", f"k_{i}", f"v{j}", j, spec.d)
    if spec.scaled:
        yield from load(spec.d, "scale")
    if spec.weighted:
        yield from load(spec.d + spec.scaled, "w")
    for v in range(spec.values):
        yield from load(spec.fixed + v, f"t{v}v")
    if spec.own:
        yield from (f"own{a} = short(self{a} - (start + k))" for a in range(spec.queries))
    for a, i in lanes:
        yield from pair(spec, formula, str(a), str(i), f"I{i if width > 1 else 0}")


def coordinate(spec: Spec, tag: str, q: str, k: str, v: str, j: int, d: int) -> Iterator[str]:
    """Adds coordinate j of d to the score u{tag}. More than `PART` coordinates are summed by parts, in p{tag}."""
    parts = d > PART and spec.form in ("one", "each")
    name = f"p{tag}" if parts else f"u{tag}"
    first = j % PART == 0 if parts else j == 0
    if spec.form in ("dot", "norms"):
        yield f"{name} = {q} * {k}" if first else f"{name} += {q} * {k}"
        return
    yield f"x{tag} = {q} - {k}" if spec.form == "one" else f"x{tag} = ({q} - {k}) * {v}"
    yield f"{name} = x{tag} * x{tag}" if first else f"{name} += x{tag} * x{tag}"
    if parts and (j % PART == PART - 1 or j == d - 1):
        yield f"u{tag} = p{tag}" if j < PART else f"u{tag} += p{tag}"


def pair(spec: Spec, formula: Formula, a: str, i: str, at: str) -> Iterator[str]:
    """Adds the pair with score u{a}_{i} to the sums of the tile, with w_i, t0v_i, …; `at` is the key's position."""
    tag = f"{a}_{i}"
    u2 = f"u{tag}"
    if spec.form in ("one", "norms") or formula.leading != 1.0:
        yield f"{u2} = {u2} * factor"
    if spec.scaled:
        yield f"{u2} = {u2} * scale_{i}"
    yield from _profile(spec, formula, u2, f"y{tag}", tag)
    always = [f"{at} != own{a}"] if spec.own else []
    always += [f"valid_{i}"] if spec.d == 0 else []
    present = list(always)
    if spec.task == "max":
        present += [f"{u2} <= HUGE"] if spec.guarded else []
        present += [f"w_{i} > ZERO"] if spec.weighted else []
        yield f"best{a} = {_chosen([*present, f'y{tag} > best{a}'], f'y{tag}', f'best{a}')}"
        return
    if spec.task == "shifted":
        yield f"y{tag} = exp2((y{tag} - shift{a}) * LOG2E)"
    if spec.support is not None or (spec.guarded and spec.task == "shifted"):
        present.append(f"{u2} <= {'SUPPORT' if spec.support is not None else 'HUGE'}")
    if spec.support is not None or spec.errors == "nudged":
        yield f"y{tag} = maximum(y{tag}, ZERO)"
    if present:
        yield f"y{tag} = {_chosen(present, f'y{tag}', 'ZERO')}"
    weigh = f"w_{i} * " if spec.weighted else ""
    yield f"m{a} += {weigh}y{tag}"
    if spec.errors == "window":
        yield f"b{a} += {_chosen([f'{u2} <= edge{a}', *always], f'w_{i}' if spec.weighted else 'ONE', 'ZERO')}"
    if spec.errors == "nudged":
        yield from _nudged(spec, formula, a, i, always)
    yield from (f"s{a}_{v} += y{tag} * t{v}v_{i}" for v in range(spec.values))


def _chosen(conditions: list[str], yes: str, no: str) -> str:
    """An expression that is `yes` where all conditions hold, else `no`."""
    return f"select({' & '.join(f'({condition})' for condition in conditions)}, {yes}, {no})"


def _profile(spec: Spec, formula: Formula, argument: str, result: str, tag: str) -> Iterator[str]:
    """Computes κ or its logarithm. A user's function is evaluated within the support only."""
    if spec.errors == "nudged" and spec.support is not None:
        yield f"within{tag} = {_chosen([f'{argument} <= SUPPORT'], argument, 'ZERO')}"
        argument = f"within{tag}"
    yield from formula.lines(argument, result, tag)


def _nudged(spec: Spec, formula: Formula, a: str, i: str, always: list[str]) -> Iterator[str]:
    """Adds the change of κ within the error of u², at slopes and at discontinuities."""
    tag = f"{a}_{i}"
    yield f"e{tag} = maximum(u{tag}, ONE) * error{a}"
    for sign, name in (("+", "up"), ("-", "down")):
        nudged = f"{name}{tag}"
        yield f"{nudged} = maximum(u{tag} {sign} e{tag}, ZERO)"
        yield from _profile(spec, formula, nudged, f"y{nudged}", nudged)
        if spec.task == "shifted":
            yield f"y{nudged} = exp2((y{nudged} - shift{a}) * LOG2E)"
        yield f"y{nudged} = maximum(y{nudged}, ZERO)"
        present = [*always, f"{nudged} <= SUPPORT"] if spec.support is not None else always
        if present:
            yield f"y{nudged} = {_chosen(present, f'y{nudged}', 'ZERO')}"
    weigh = f"w_{i} * " if spec.weighted else ""
    yield f"b{a} += {weigh}maximum(absolute(yup{tag} - y{tag}), absolute(ydown{tag} - y{tag}))"
