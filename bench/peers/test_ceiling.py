"""The disassembler counts what a small program of known instructions holds."""

from __future__ import annotations

import platform
import shutil
import subprocess

import pytest

from bench.peers import ceiling
from bench.peers.ceiling_source import TERMS, source

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump"),
    pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler"),
]

# the inner loop: two loads, one subtraction, one product, one fused product, one permutation, one integer sum
PROGRAM = """
#include <immintrin.h>
__attribute__((noinline, target("avx2,fma"))) float nested(const float *a, const float *b, int n, int m) {
    __m256 sum = _mm256_setzero_ps();
    for (int j = 0; j < m; j++) {
        __m256 q = _mm256_set1_ps(a[j]);
        __m256i where = _mm256_set1_epi32(j);
        for (int i = 0; i < n; i += 8) {
            __asm__ volatile("");  /* not unrolled */
            __m256 x = _mm256_sub_ps(_mm256_loadu_ps(b + i), q);
            __m256 y = _mm256_mul_ps(x, x);
            sum = _mm256_fmadd_ps(_mm256_permutevar8x32_ps(y, where), _mm256_loadu_ps(a + i), sum);
            where = _mm256_add_epi32(where, where);
        }
    }
    float parts[8];
    _mm256_storeu_ps(parts, sum);
    return parts[0] + parts[7];
}
int main(int count, char **arguments) { float a[64] = {0}; return (int)nested(a, a, 8 * count, count); }
"""


def test_instructions_of_the_innermost_loop(tmp_path):
    counts = ceiling.loop_instructions(ceiling.compile_program(PROGRAM, tmp_path / "small"), "nested")
    # a compiler may load before it subtracts or in the same instruction, and may copy registers ("other")
    expected = {"multiply": 2, "add": 1, "shuffle": 1, "load": 2, "integer": 1}
    assert {pipe: counts[pipe] for pipe in expected} == expected


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    program = ceiling.compile_program(PROGRAM, tmp_path / "small")
    assert ceiling.loop_instructions(program, "no_such_function") is None
    with pytest.raises(subprocess.CalledProcessError):
        ceiling.compile_program("int main( {", tmp_path / "broken")
    monkeypatch.setenv("PATH", "")
    assert "no C compiler" in str(ceiling.missing()) or "AVX-512" in str(ceiling.missing())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 3])
def test_the_loop_holds_the_pairs_arithmetic(dtype, d, tmp_path):
    """d differences and squares, the exponential, two sums; nothing optimised away, nothing from memory."""
    text = source(dtype, d, group=2)
    counts = ceiling.loop_instructions(ceiling.compile_program(text, tmp_path / "loop"), "loop")
    terms = TERMS[dtype]
    assert counts["multiply"] == 2 * (d + 2 + (terms - 1) + 2 + 1)
    assert counts["add"] == 2 * (d + 1 + 1)
    assert (counts["scale"], counts["shuffle"]) == (2, 2)
