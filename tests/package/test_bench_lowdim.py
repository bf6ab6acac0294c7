"""The benchmarks' own arithmetic: slopes, verdicts, markers, and what becomes of methods that are not there."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastnw

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "bench" / "report.py").is_file():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.append(str(ROOT))  # after the import of fastnw: what is installed counts
from bench.bandwidth import report as bandwidth_report  # noqa: E402
from bench.latency import report as latency_report  # noqa: E402
from bench.lib import forced, record  # noqa: E402
from bench.lib.markdown import write_section  # noqa: E402
from bench.lib.record import Progress  # noqa: E402
from bench.lib.systems import FASTNW_EXACT, MLPACK  # noqa: E402
from bench.lowdim import growth as lowdim_growth  # noqa: E402
from bench.lowdim import measure as lowdim  # noqa: E402
from bench.lowdim import table as lowdim_table  # noqa: E402
from bench.lowdim.measure import Form, Row, Work  # noqa: E402
from bench.peers import table as peers_table  # noqa: E402
from bench.peers.checks import Check  # noqa: E402
from bench.planner import measure as planner  # noqa: E402
from bench.planner import problems as planner_problems  # noqa: E402
from bench.planner import report as planner_report  # noqa: E402
from bench.steadiness import report as steadiness_report  # noqa: E402

sys.path.remove(str(ROOT))

GAUSSIAN, COMPACT, FIVE, DENSITY = (lowdim.works()[i] for i in (0, 3, 9, 10))


def row(work, seconds, **changes):
    """A row that reaches every goal but, perhaps, that of speed."""
    good = Row("fourier", [seconds] * 3, work.case.m, {FASTNW_EXACT: 10.0, MLPACK: 100.0}, {}, {"fourier": 1.0})
    return replace(good, error=1e-14, bound=1e-9, checked=300, **changes)


def test_slope():
    sizes = (1e5, 3e5, 1e6, 1e7)
    assert lowdim_growth.slope(sizes, tuple(2e-7 * n**1.3 for n in sizes)) == pytest.approx(1.3)
    assert math.isnan(lowdim_growth.slope((1e5,), (1.0,)))


def test_shares_of_the_queries():
    assert lowdim.shares("fourier", 1000, {"exact": 10}) == {"fourier": 0.99, "exact": 0.01}
    assert lowdim.shares("tree", 1000, {"tree": 1000, "exact": 0}) == {"tree": 1.0}
    assert lowdim.shares("fourier", 8, {"tree": 2, "exact": 2}) == {"fourier": 0.5, "tree": 0.25, "exact": 0.25}


def test_errors_against_bounds():
    found = Row()
    lowdim.compare_bounds(np.array([1e-12, 2e-12, 3e-9, np.nan]), np.array([1e-9, 1e-9, 1e-9, 1e-9]), 1e-15, found)
    assert (found.checked, found.beyond) == (4, 2)
    lowdim.compare_bounds(np.array([1e-12, 2e-12, 4e-12]), np.array([1e-9, 1e-9, 1e-9]), 1e-15, found)
    assert (found.beyond, found.error, found.tightness) == (0, 4e-12, pytest.approx(500))
    lowdim.compare_bounds(np.array([1e-16, 2e-16]), np.array([0.0, 0.0]), 1e-15, found)  # the result's own digits
    assert (found.beyond, found.tightness) == (0, None)


@pytest.mark.parametrize(
    ("work", "seconds", "changes", "sized", "wanted"),
    [
        (GAUSSIAN, 0.3, {}, True, True),
        (GAUSSIAN, 0.5, {}, True, False),
        (GAUSSIAN, 0.3, {}, False, None),
        (GAUSSIAN, 0.3, {"uncertified": 1}, False, False),
        (GAUSSIAN, 0.3, {"beyond": 1}, True, False),
        (GAUSSIAN, 0.3, {"answered": {"fourier": 0.98, "exact": 0.02}}, True, False),
        (GAUSSIAN, 0.3, {"answered": {"fourier": 0.995, "exact": 0.005}}, True, True),
        (GAUSSIAN, 0.3, {"tightness": 2e4}, True, False),
        (COMPACT, 0.3, {"answered": {"moments": 0.98, "exact": 0.02}}, True, True),
        (FIVE, 3.9, {}, True, True),
        (FIVE, 4.1, {}, True, False),
        (DENSITY, 0.3, {}, True, True),
        (DENSITY, 0.4, {}, True, False),
        (DENSITY, 0.3, {"others": {FASTNW_EXACT: 10.0}}, True, None),  # mlpack is not installed
    ],
)
def test_verdict(work, seconds, changes, sized, wanted):
    assert lowdim_table.verdict(work, replace(row(work, seconds), **changes), sized) is wanted


def test_an_error_above_what_is_allowed_is_a_fault():
    assert not lowdim_table.faults(COMPACT, row(COMPACT, 0.3))
    assert lowdim_table.faults(COMPACT, replace(row(COMPACT, 0.3), error=1e-11))
    assert lowdim_table.faults(GAUSSIAN, replace(row(GAUSSIAN, 0.3), error=math.nan))


def test_table_shows_rows_checks_and_refusals():
    machine = {"cpu": "c", "isa": "i", "threads": 2, "date": "2026-01-01T", "python": "3", "versions": {"numpy": "2"}}
    rows = [replace(row(GAUSSIAN, 0.3), methods={"tree": "is missing", "fourier": "0.3 s"}), row(DENSITY, 5.0)]
    checks = [
        Check("growth, d=1", 1.0, 1.15, "in log-log", "not certified: d=1, n=10"),
        Check("memory", 2.0, 9.0, "MiB"),
    ]
    text = lowdim_table.text(machine, "full", 3, [GAUSSIAN, DENSITY], rows, checks)
    lines = {line.split("|")[1].split(",")[0].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "**no**" in lines["growth"]
    assert "yes" in lines["memory"]
    assert "is missing" in text
    assert "20 × (5 s against 100 s)" in text
    assert Row.from_json(json.loads(json.dumps(rows[0].as_json()))) == rows[0]


SECTIONS = [
    (module.START, module.END)
    for module in (peers_table, lowdim_table, bandwidth_report, steadiness_report, latency_report)
]


def test_a_section_is_written_between_its_markers(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("\n\n".join(f"about\n{start}\n| old |\n{end}" for start, end in SECTIONS), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    for start, end in SECTIONS:
        write_section(page, f"| new {start} |", start, end)
    wanted = "\n\n".join(f"about\n{start}\n| new {start} |\n{end}" for start, end in SECTIONS)
    assert page.read_text(encoding="utf-8") == wanted != before
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="must have the markers <!-- lowdim:start -->"):
        write_section(page, "", lowdim_table.START, lowdim_table.END)


@pytest.mark.parametrize(("start", "end"), SECTIONS)
def test_the_page_has_the_markers(start, end):
    text = record.PAGE.read_text(encoding="utf-8")
    assert text.count(start) == text.count(end) == 1
    assert text.index(start) < text.index(end)


def test_every_method_is_offered_or_says_why_not():
    case = lowdim.case("epanechnikov", 300, 2)
    found = forced.offers(case.problem(), {"kernel": "epanechnikov", "bandwidth": 0.1})
    assert set(found) == {"exact", "tree", "moments", "fourier"}
    assert found["exact"].method == "exact"
    assert found["moments"] == "supports d = 1, got d = 2."
    assert forced.queries_for(found["exact"], 0.0) == 300


def test_what_takes_too_long_is_stopped():
    def call(m):
        return lambda: time.sleep(0.03 * m / 512)

    stopped = forced.estimate(call, 64 * 512, 0.05)
    assert stopped.m == 8 * 512
    assert stopped.seconds > 0.05
    assert forced.estimate(call, 512, 0.01).m == 512


@pytest.mark.parametrize(
    "work",
    [
        Work(lowdim.case("gaussian", 2_000, 1)),
        Work(lowdim.case("triangular", 1_000, 3), worst=1e-12),
        Work(lowdim.case("gaussian", 3_000, 2), what="density"),
    ],
)
def test_a_small_work_is_measured_and_right(work, capsys):
    found = lowdim.measure(work, Form("quick", 10, 1, 60), Progress())
    assert lowdim_table.faults(work, found) == []
    assert found.checked == 60
    assert sum(found.answered.values()) == pytest.approx(1)
    assert set(found.methods) == {"exact", "tree", "moments", "fourier"}
    assert found.others[FASTNW_EXACT] > 0
    assert work.case.name in capsys.readouterr().out
    if work.case.kernel == "triangular":
        assert found.empty > 0
        assert found.method != "exact" or found.visited == 1.0


def test_bounds_that_lie_are_found(monkeypatch):
    """A query in ten off by a millionth of the range, with a bound that does not say so."""
    pool = fastnw.pool

    def wrong(*arrays, **options):
        mean, bound = pool(*arrays, **options)
        mean[::10] += 1e-6 * np.ptp(arrays[2])
        return mean, bound

    monkeypatch.setattr(fastnw, "pool", wrong)
    found = lowdim.measure(Work(lowdim.case("gaussian", 1_000, 1)), Form("quick", 10, 1, 60), Progress())
    assert found.beyond > 0
    assert len(lowdim_table.faults(Work(lowdim.case("gaussian", 1_000, 1)), found)) == 2


def test_the_planner_is_judged_by_both_goals():
    assert planner_report.judge([1.0] * 9 + [2.9])[0]
    assert not planner_report.judge([1.0] * 8 + [1.6] * 2)[0]
    assert not planner_report.judge([1.0] * 19 + [3.1])[0]
    found = planner.Found("p", "exact", 0.1, {"exact": 1.0, "tree": 0.5})
    assert found.ratio == pytest.approx(2.2)


def test_the_planner_measures_a_small_problem():
    problem = planner_problems.Problem("epanechnikov", 1, 600, 600, 0.1, "clustered")
    rng = np.random.default_rng(0)
    found = planner.measure(problem.drawn(rng), rng, quick=True)
    assert {"exact", "moments"} <= set(found.seconds)
    assert set(found.seconds) | set(found.refused) == {"exact", "tree", "moments", "fourier"}
    assert found.ratio >= 1
    assert found.name in planner_report.table([found])


def test_the_planners_grid():
    problems = planner_problems.grid()
    assert len(problems) >= 60
    assert {problem.d for problem in problems} >= {1, 2, 3, 4, 5, 8, 16}
    assert {problem.kernel for problem in problems} == {*fastnw.kernels.names(), planner_problems.USERS}
    assert {"normal", "clustered", "cauchy"} < {problem.data for problem in problems}
    rng = np.random.default_rng(0)
    for data in planner_problems.REAL:
        assert planner_problems.cloud(data, 50, 4, rng).shape == (50, 4)
