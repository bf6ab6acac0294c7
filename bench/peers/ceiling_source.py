"""C for the ceiling: a Gaussian pair's arithmetic on registers alone, written out instruction by instruction.

The instructions are those of the tiles for AVX-512 (`fused` in src_cython/_fused_body.h, exp2 in src_cython/_vector.h),
for one bandwidth, no weights and one value. Keys and the value stay in registers; an empty asm statement declares
them changed at no cost. Memory, loop ends and calls are left out.
"""

from __future__ import annotations

# 2^f - 1 = f (c1 + c2 f + ...); their number is what matters here
TERMS = {"float32": 2, "float64": 6}


def source(dtype: str, d: int, group: int) -> str:
    """The program for `group` queries side by side; exp2 is interleaved with the distances of the next pairs."""
    wide = dtype == "float64"
    names = {
        "V": "__m512d" if wide else "__m512",
        "T": "double" if wide else "float",
        "P": "pd" if wide else "ps",
        "pairs": group * (8 if wide else 16),
    }
    queries = range(group)
    distances = [line for j in range(d) for line in _distance(j, queries)]
    exponentials = _exponential(TERMS[dtype], queries)
    take = [f"s{a} = n{a};" for a in queries]
    body = _interleaved(distances, exponentials) + take
    declared = [f"V q{a}_{j} = SET(q[{a + group * j}]), t{a}_{j};" for a in queries for j in range(d)]
    declared += [f"V m{a} = SET(0), w{a} = SET(0), s{a} = SET(0), n{a} = SET(0);" for a in queries]
    declared += [f"V u{a}, r{a}, f{a}, e{a}, p{a};" for a in queries]
    changed = [f"CHANGED(k{j});" for j in range(d)] + ["CHANGED(value);"]
    parts = {
        "declared": "\n    ".join(declared + [f"V k{j} = SET(0);" for j in range(d)]),
        "constants": "\n    ".join(f"const V c{k} = SET(0.5 / {k});" for k in range(1, TERMS[dtype] + 1)),
        "body": "\n        ".join(changed + body),
        "sum": " + ".join(f"m{a} + w{a}" for a in queries),
    }
    text = PROGRAM
    for name, value in (names | parts).items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _distance(j: int, queries: range) -> list[str]:
    add = "MUL(t{a}_{j}, t{a}_{j})" if j == 0 else "FMA(t{a}_{j}, t{a}_{j}, n{a})"
    return [f"t{a}_{j} = SUB(k{j}, q{a}_{j});" for a in queries] + [f"n{a} = {add.format(a=a, j=j)};" for a in queries]


def _exponential(terms: int, queries: range) -> list[str]:
    steps = ["u{a} = FMA(s{a}, factor, large);", "r{a} = SUB(u{a}, large);", "f{a} = FMSUB(s{a}, factor, r{a});"]
    steps += ["e{a} = TABLE(low, BITS(u{a}), high);", f"p{{a}} = FMA(f{{a}}, c{terms}, c{terms - 1});"]
    steps += ["e{a} = SCALE(e{a}, r{a});", *(f"p{{a}} = FMA(f{{a}}, p{{a}}, c{k});" for k in range(terms - 2, 0, -1))]
    steps += ["p{a} = MUL(f{a}, p{a});", "p{a} = FMA(p{a}, e{a}, e{a});"]
    steps += ["m{a} = ADD(m{a}, p{a});", "w{a} = FMA(p{a}, value, w{a});"]
    return [step.format(a=a) for step in steps for a in queries]


def _interleaved(first: list[str], second: list[str]) -> list[str]:
    """Both lists in their order, evenly mixed."""
    lines, taken = [], 0
    for position, line in enumerate(second, 1):
        lines.append(line)
        upto = min(len(first), (position * len(first) + len(second) // 2) // len(second))
        lines += first[taken:upto]
        taken = upto
    return lines + first[taken:]


PROGRAM = """
#define _GNU_SOURCE
#include <immintrin.h>
#include <sched.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef @V@ V;
#define SET(x) _mm512_set1_@P@(x)
#define ADD _mm512_add_@P@
#define SUB _mm512_sub_@P@
#define MUL _mm512_mul_@P@
#define FMA _mm512_fmadd_@P@
#define FMSUB _mm512_fmsub_@P@
#define SCALE _mm512_scalef_@P@
#define TABLE _mm512_permutex2var_@P@
#define BITS _mm512_cast@P@_si512
#define CHANGED(v) __asm__ volatile("" : "+v"(v))

__attribute__((noipa)) static double loop(long steps, const @T@ *q)
{
    @declared@
    @constants@
    const V factor = SET(-0.1), large = SET(393216.0), low = SET(1.0), high = SET(1.5);
    V value = SET(0.5);
    for (long i = 0; i < steps; i++) {
        @body@
    }
    return _mm512_reduce_add_@P@(@sum@);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Additions that wait for each other, one a cycle: the clock, measured by every thread right after its loop. */
static double clock_hz(void)
{
    double best = 0;
    for (int round = 0; round < 5; round++) {
        uint64_t x = 1;
        const double start = now();
        for (int i = 0; i < 1000000; i++)
            __asm__ volatile("add $1,%0\\n add $1,%0\\n add $1,%0\\n add $1,%0\\n add $1,%0\\n" : "+r"(x));
        const double rate = 5e6 / (now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static const @T@ QUERIES[64] = {0.25};
static double deadline;
static volatile double sink;
static long steps[1024][8]; /* a cache line each */
static double clocks[1024];

/* Each thread on a processor of its own: two short-lived ones may otherwise share one for a while. */
static void pin(long number)
{
#ifdef __linux__
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && number-- == 0)
            CPU_SET(cpu, &one);
    if (CPU_COUNT(&one))
        sched_setaffinity(0, sizeof one, &one);
#endif
}

static void *work(void *mine)
{
    pin((long)((long (*)[8])mine - steps));
    while (now() < deadline) {
        sink = loop(20000, QUERIES);
        *(long *)mine += 20000;
    }
    clocks[(long (*)[8])mine - steps] = clock_hz();
    return NULL;
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const double seconds = argc > 2 ? atof(argv[2]) : 1;
    pthread_t thread[1024];
    double all = 0, hz = 0, taken;
    if (threads < 1 || threads > 1024)
        return 2;
    sink = loop(100000, QUERIES);
    const double start = now();
    deadline = start + seconds;
    for (int i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, work, steps[i]);
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        all += (double)steps[i][0];
        hz += clocks[i] / threads;
    }
    taken = deadline - start;
    printf("{\\"pairs_per_second\\": %.6g, \\"clock_hz\\": %.6g, \\"pairs_per_step\\": %d}\\n",
           all * @pairs@ / taken, hz, @pairs@);
    return 0;
}
"""
