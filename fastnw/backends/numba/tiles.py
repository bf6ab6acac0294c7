"""The tile that Numba compiles, for one kernel, compute type and number of coordinates.

`build` also reads this file as a template: it replaces the lines between the two marks by those of another kernel and
imports the result as a module of its own. Numba's disk cache belongs to a file, and the constants of a module become
constants of its machine code.

Functions take arrays that belong together as tuples: a block (coordinates, stride, scale, weights, values, row, codes),
a state (shift, mass, total, mass_error), buffers (scores, u², sums of values) and errors (bound, least, ...).
"""

import math
from typing import Any

import numpy as np
from numba import njit, types

# <kernel>
from fastnw.backends.numba.functions import EXACT
from fastnw.backends.numba.functions import exp2_falling_float32 as exp2
from fastnw.runtime._constants import EXP_CLAMP_NATS as CLAMPS
from fastnw.runtime._constants import FIRST_STRIP_KEYS, MAX_SEQUENTIAL_KEYS, MAX_VECTOR_ELEMENTS, MIN_UNSHIFTED_MASS
from fastnw.runtime._constants import MAX_STRIP_KEYS as STRIP_KEYS

F, EXP_CLAMP_NATS = np.float32, CLAMPS["float32"]
LOGS, COMPACT, ROUGH, INNER, USERS, FUSED, D = True, False, False, False, False, True, 3
FOLDED, CAP, SUPPORT2, LEAST = F(-0.7213475204444817), F(0.0), F(0.0), F(0.0)


@njit(**EXACT)
def profile(u2):
    return exp2(u2)


@njit(**EXACT)
def log_profile(u2):
    return u2 * F(-0.5)


# </kernel>

MAX_FLOAT = F(np.finfo(F).max)
LOG2E = F(1.4426950408889634)
# Sums may be reordered, so that they vectorise. NaN, infinity and division keep their meaning.
SUMS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
    "nogil": True,
    "cache": True,
}


@njit(**EXACT)
def not_negative(kappa):
    """κ, or 0 where a rounding error makes it negative. NaN if it is more negative, since then it is no kernel."""
    clipped = F(0) if kappa < F(0) else kappa
    return F(np.nan) if kappa < LEAST else clipped


@njit(**EXACT)
def weight(u2):
    """κ from u2 = FOLDED u². It is 0 beyond the support."""
    if COMPACT:
        inside = profile(SUPPORT2 if u2 > SUPPORT2 else u2)
        if USERS:
            inside = not_negative(inside)
        return inside if u2 <= SUPPORT2 else F(0)
    if USERS:  # beyond CAP its rounding error is unknown: NaN opens the query for the next rung
        return not_negative(profile(u2)) if u2 <= CAP else F(np.nan)
    if F(0) < CAP:
        return profile(CAP if u2 > CAP else u2)
    return profile(u2)


@njit(**EXACT)
def log_weight(u2):
    """log κ. It is −inf beyond the support."""
    if INNER:
        return log_profile(u2)
    if COMPACT and u2 > SUPPORT2:
        return F(-np.inf)
    if USERS:
        return log_profile(u2) if u2 <= CAP else F(np.nan)
    return log_profile(MAX_FLOAT if u2 > MAX_FLOAT else u2)


@njit(**EXACT)
def change(u2, kappa, error, least):
    """The largest change of κ within the error of u², which is relative for u² >= least and absolute below."""
    step = error * (u2 if u2 > least else least)
    up = abs(weight(u2 + step) - kappa)
    down = abs(weight(u2 - step if u2 > step else F(0)) - kappa)
    return up if (up > down or up != up) else down  # NaN if one of them is


@njit(**EXACT)
def exponential(log, shift):
    """exp(log − shift)."""
    return exp2((log - shift) * LOG2E)


@njit(**EXACT)
def shifted_change(u2, kappa, error, shift, least):
    """The same change for κ divided by exp(shift)."""
    step = error * (u2 if u2 > least else least)
    up = abs(exponential(log_weight(u2 + step), shift) - kappa)
    down = abs(exponential(log_weight(u2 - step if u2 > step else F(0)), shift) - kappa)
    return up if (up > down or up != up) else down  # NaN if one of them is


@njit(**SUMS)
def fused(queries, factor, block, at, n, errors, sums):
    """Sums of four queries over the n keys from `at` on, in D coordinates with one bandwidth, in registers.

    `block` is (coordinates, stride, weights, values) and `errors` is (bound of each query, least). `sums` (4, 3)
    receives masses, totals and bounds on the errors of masses: for a `ROUGH` kernel the changes of κ within `bound`,
    the relative error of u²; for a compact one the weight of the keys with u² up to `bound`. Weights are multiplied
    even where all of them are 1: that costs 3 %, and saves compiling a second loop.
    """
    keys, stride, weights, values = block
    bound, least = errors
    k0, w, v = keys[at : at + n], weights[at : at + n], values[at : at + n]
    k1 = keys[stride + at : stride + at + n] if D > 1 else k0
    k2 = keys[2 * stride + at : 2 * stride + at + n] if D > 2 else k0
    a0, b0, c0, d0 = queries[0, 0], queries[1, 0], queries[2, 0], queries[3, 0]
    a1, b1, c1, d1 = queries[0, 1], queries[1, 1], queries[2, 1], queries[3, 1]
    a2, b2, c2, d2 = queries[0, 2], queries[1, 2], queries[2, 2], queries[3, 2]
    la, lb, lc, ld = bound[0], bound[1], bound[2], bound[3]
    ma = mb = mc = md = ta = tb = tc = td = ea = eb = ec = ed = F(0)
    for i in range(n):
        x = k0[i]
        sa, sb, sc, sd = (x - a0) ** 2, (x - b0) ** 2, (x - c0) ** 2, (x - d0) ** 2
        if D > 1:
            x = k1[i]
            sa, sb, sc, sd = sa + (x - a1) ** 2, sb + (x - b1) ** 2, sc + (x - c1) ** 2, sd + (x - d1) ** 2
        if D > 2:
            x = k2[i]
            sa, sb, sc, sd = sa + (x - a2) ** 2, sb + (x - b2) ** 2, sc + (x - c2) ** 2, sd + (x - d2) ** 2
        sa, sb, sc, sd = sa * factor, sb * factor, sc * factor, sd * factor
        ga, gb, gc, gd = weight(sa), weight(sb), weight(sc), weight(sd)
        y = w[i]
        ma, mb, mc, md = ma + ga * y, mb + gb * y, mc + gc * y, md + gd * y
        if ROUGH:
            ea, eb = ea + change(sa, ga, la, least) * y, eb + change(sb, gb, lb, least) * y
            ec, ed = ec + change(sc, gc, lc, least) * y, ed + change(sd, gd, ld, least) * y
        elif COMPACT:
            ea, eb = ea + (y if sa <= la else F(0)), eb + (y if sb <= lb else F(0))
            ec, ed = ec + (y if sc <= lc else F(0)), ed + (y if sd <= ld else F(0))
        y = v[i]
        ta, tb, tc, td = ta + ga * y, tb + gb * y, tc + gc * y, td + gd * y
    sums[0, 0], sums[1, 0], sums[2, 0], sums[3, 0] = ma, mb, mc, md
    sums[0, 1], sums[1, 1], sums[2, 1], sums[3, 1] = ta, tb, tc, td
    sums[0, 2], sums[1, 2], sums[2, 2], sums[3, 2] = ea, eb, ec, ed


@njit(**EXACT)
def scores(s, q, inverse, keys, stride, d, scale, at, n):
    """s = u² from differences of raw coordinates, or q·k. Squares are added four at a time: (d/4 + 9) roundings."""
    if INNER:
        for j in range(d):
            a, first = q[j] * inverse[j], j * stride + at
            k = keys[first : first + n]
            for i in range(n):
                s[i] = a * k[i] + (s[i] if j > 0 else F(0))
    else:
        for j in range(0, d, 4):
            # Coordinates beyond the last one have the factor 0.
            l1, l2, l3 = min(j + 1, d - 1), min(j + 2, d - 1), min(j + 3, d - 1)
            v0, v1 = inverse[j], inverse[l1] if j + 1 < d else F(0)
            v2, v3 = inverse[l2] if j + 2 < d else F(0), inverse[l3] if j + 3 < d else F(0)
            q0, q1, q2, q3 = q[j], q[l1], q[l2], q[l3]
            k0, k1 = keys[j * stride + at : j * stride + at + n], keys[l1 * stride + at : l1 * stride + at + n]
            k2, k3 = keys[l2 * stride + at : l2 * stride + at + n], keys[l3 * stride + at : l3 * stride + at + n]
            for i in range(n):
                t0, t1 = (k0[i] - q0) * v0, (k1[i] - q1) * v1
                t2, t3 = (k2[i] - q2) * v2, (k3[i] - q3) * v3
                s[i] = ((t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)) + (s[i] if j > 0 else F(0))
    if len(scale) > 0:
        for i in range(n):
            s[i] *= scale[at + i]


@njit(**SUMS)
def plain_sums(s, weights, values, at, n, bound, least):
    """Mass, total and a bound on the error of the mass (see `fused`). Replaces u² in s by κ."""
    mass = total = extra = F(0)
    w, v = weights[at : at + n], values[at : at + n]
    for i in range(n):
        y, u2 = w[i], s[i] * FOLDED
        g = weight(u2)
        mass += g * y
        if ROUGH:
            extra += change(u2, g, bound, least) * y
        elif COMPACT:
            extra += y if u2 <= bound else F(0)
        total += g * v[i]
        s[i] = g
    return mass, total, extra


@njit(**SUMS)
def shifted_sums(s, u, shift, weights, values, at, n, bound, least):
    """The same sums divided by exp(shift), from log κ in s and u² in u. Replaces log κ in s by κ/exp(shift)."""
    mass = total = extra = F(0)
    w, v = weights[at : at + n], values[at : at + n]
    for i in range(n):
        y = w[i]
        g = exponential(s[i], shift)
        if COMPACT:
            g = g if s[i] >= -MAX_FLOAT else F(0)  # the clamped exponential never reaches 0
        mass += g * y
        if ROUGH:
            extra += shifted_change(u[i], g, bound, shift, least) * y
        total += g * v[i]
        s[i] = g
    return mass, total, extra


@njit(**EXACT)
def logarithms(s, u, n):
    """Replaces u² in s by log κ, copies u² to u for a `ROUGH` kernel, and returns the largest log κ; NaN if one is."""
    for i in range(n):
        if ROUGH:
            u[i] = s[i]
        s[i] = log_weight(s[i])
    largest = F(-np.inf)
    for i in range(n):
        largest = s[i] if s[i] > largest else largest
    if USERS:
        for i in range(n):
            if s[i] != s[i]:
                return s[i]
    return largest


@njit(**EXACT)
def rescale(i, factor, mass, total, mass_error):
    """Multiplies the sums of query i."""
    mass[i] *= factor
    mass_error[i] *= factor
    for k in range(total.shape[1]):
        total[i, k] *= factor


@njit(**EXACT)
def weigh(s, rows, row, c, at, n, sums):
    """sums = Σ s_i rows_i, over whole vectors, to which rows are filled up. Adding four rows at a time saves stores."""
    width = (c + MAX_VECTOR_ELEMENTS - 1) // MAX_VECTOR_ELEMENTS * MAX_VECTOR_ELEMENTS
    for k in range(width):
        sums[k] = F(0)
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        g0, g1, g2, g3 = s[i], s[i + 1], s[i + 2], s[i + 3]
        a = (at + i) * row
        v0, v1 = rows[a : a + width], rows[a + row : a + row + width]
        a += 2 * row
        v2, v3 = rows[a : a + width], rows[a + row : a + row + width]
        for k in range(width):
            sums[k] += (g0 * v0[k] + g1 * v1[k]) + (g2 * v2[k] + g3 * v3[k])
    for i in range(whole, n):
        a = (at + i) * row
        g, values = s[i], rows[a : a + width]
        for k in range(width):
            sums[k] += g * values[k]


@njit(**EXACT)
def weigh_classes(s, weights, codes, at, n, total):
    """Adds Σ w s of each class to its total, in float64."""
    for i in range(n):
        x = np.float64(s[i]) * np.float64(weights[at + i])
        for k in range(codes.shape[1]):
            total[codes[at + i, k]] += x


@njit(**EXACT)
def staged(i, queries, inverse, block, at, n, buffers, state, errors):
    """Adds the sums of the n <= STRIP_KEYS keys from `at` on to the state of query i.

    `errors` is (bound, least, factor): the bound on the error of the mass is multiplied by the factor.
    """
    keys, stride, scale, weights, values, row, codes = block
    shift, mass, total, mass_error = state
    s, u, sums = buffers
    bound, least, error_factor = errors
    d, c = len(inverse), total.shape[1]
    one = weights if c != 1 else values
    scores(s, queries[i], inverse, keys, stride, d, scale, at, n)
    if LOGS and (INNER or shift[i] != 0):
        largest = float(logarithms(s, u, n))
        if largest == -np.inf or largest < shift[i] - EXP_CLAMP_NATS:
            return
        if largest > shift[i]:
            if mass[i] != 0:
                rescale(i, math.exp(shift[i] - largest), mass, total, mass_error)
            shift[i] = largest
        strip_mass, strip_total, extra = shifted_sums(s, u, F(shift[i]), weights, one, at, n, bound, least)
    else:
        strip_mass, strip_total, extra = plain_sums(s, weights, one, at, n, bound, least)
    mass[i] += strip_mass
    mass_error[i] += error_factor * extra
    if c == 1:
        total[i, 0] += strip_total
    elif len(codes) > 0:
        weigh_classes(s, weights, codes, at, n, total[i])
    elif c > 1:
        weigh(s, values, row, c, at, n, sums)
        for k in range(c):
            total[i, k] += sums[k]
    if LOGS and not INNER and shift[i] != 0 and mass[i] * math.exp(min(shift[i], 0.0)) >= MIN_UNSHIFTED_MASS:
        rescale(i, math.exp(shift[i]), mass, total, mass_error)
        shift[i] = 0.0


FLOAT = types.float32 if F is np.float32 else types.float64
LINE, ROWS = types.Array(FLOAT, 1, "C", readonly=True), types.Array(FLOAT, 2, "C", readonly=True)
CODES, OWN = types.Array(types.int32, 2, "C", readonly=True), types.Array(types.int64, 1, "C", readonly=True)
ERROR = types.Array(types.float64, 1, "C", readonly=True)
BLOCK = types.Tuple((LINE, types.int64, LINE, LINE, LINE, types.int64, CODES))
STATE = types.Tuple((types.float64[::1], types.float64[::1], types.float64[:, ::1], types.float64[::1]))


# The signature makes Numba compile the tile when its module is imported, under the lock of `build`.
@njit(types.void(ROWS, LINE, types.boolean, BLOCK, types.int64, OWN, STATE, ERROR, types.float64), **EXACT)
def tile(queries, inverse, one_bandwidth, block, n, own, state, error, sensitivity):
    """Adds the sums over the n keys of a block to the state of its queries, in place.

    Coordinates and values of a block are flat: `stride` numbers lie between the starts of two coordinates, and `row`
    numbers between the values of two keys. Codes of classes take the place of values. `scale`, `codes` and `own` (the
    key that each query leaves out) are empty where there are none. `sensitivity` is that of a compact kernel; for a
    `ROUGH` kernel it is the u² down to which the error of u² is relative.
    """
    keys, stride, _scale, weights, values, _row, codes = block
    shift, mass, total, mass_error = state
    m, c = queries.shape[0], total.shape[1]
    summed = c if len(codes) == 0 else 0  # number of values that are summed in the compute type
    longest = STRIP_KEYS if summed < 2 else MAX_SEQUENTIAL_KEYS
    scores_of_strip, u2_of_strip = np.empty(STRIP_KEYS, F), np.empty(STRIP_KEYS if ROUGH else 1, F)
    buffers = scores_of_strip, u2_of_strip, np.empty(summed + MAX_VECTOR_ELEMENTS, F)
    group, members = 0, np.empty(4, np.int64)
    points, bounds, strip_sums = np.zeros((4, 3), F), np.zeros(4, F), np.zeros((4, 3), F)
    factor = inverse[0] * inverse[0] * FOLDED
    least = F(sensitivity) if ROUGH else F(0)
    start = np.int64(0)  # Numba would compile the functions that take it once more for the literal 0
    while start < n:
        length = min(FIRST_STRIP_KEYS if start == 0 and LOGS and not INNER else longest, n - start)
        for i in range(m):
            bound, error_factor = F(error[i]), 1.0
            if COMPACT and not ROUGH:
                bound, error_factor = F(SUPPORT2 + 2 * error[i] * max(SUPPORT2, F(1))), sensitivity * error[i]
            left_out = own[i] - start if len(own) > 0 else -1
            left_out = left_out if 0 <= left_out < length else -1
            if FUSED and one_bandwidth and left_out < 0 and shift[i] == 0:
                for j in range(D):
                    points[group, j] = queries[i, j]
                members[group], bounds[group] = i, bound
                group += 1
            else:  # first the keys before the one that is left out, then the keys after it
                errors = bound, least, error_factor
                first, last = 0, length if left_out < 0 else left_out
                while first < length:
                    staged(i, queries, inverse, block, start + first, last - first, buffers, state, errors)
                    first, last = last if last == length else last + 1, length
            if FUSED:
                if group == 4 or (group > 0 and i == m - 1):
                    one = values if c == 1 else weights
                    fused(points, factor, (keys, stride, weights, one), start, length, (bounds, least), strip_sums)
                    for a in range(group):
                        at = members[a]
                        mass[at] += strip_sums[a, 0]
                        mass_error[at] += (sensitivity * error[at] if COMPACT and not ROUGH else 1.0) * strip_sums[a, 2]
                        if c == 1:
                            total[at, 0] += strip_sums[a, 1]
                    group = 0
        start += length
