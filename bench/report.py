"""``python bench/report.py``: fastnw and its peers in turns, as a table, as JSON and as pictures.

The full form takes about twenty minutes, and writes its tables to docs/performance.md and pictures beside it.
``--quick`` takes under two minutes on two cores: it has fewer rounds and queries, extrapolates rates and marks them so,
and writes no page. The exit status is 1 if an answer of fastnw was wrong; missed goals are in the table.

Other reports take the place of this comparison:

--lowdim      many keys and queries in few coordinates, the bounds of all queries, growth and memory
              (15 minutes; quick: a tenth of the sizes, 2 minutes)
--bandwidth   the choice of bandwidths, and whether a grid finds better ones (10 minutes; quick: 1)
--steadiness  whether the time of a pair depends on the data (3 minutes; quick: 1)
--planner     the method that `auto` chooses against every method forced (10 minutes; quick: 2);
              with --predictions 100, predicted against measured seconds
--latency     small calls, beside scikit-learn and NumPy (3 minutes; quick: 1)
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

if os.environ.get("FASTNW_NUM_THREADS"):
    os.environ["OMP_NUM_THREADS"] = os.environ["FASTNW_NUM_THREADS"]  # read when BLAS and OpenMP are loaded

import fastnw  # noqa: F401 (imported before the path changes, so that the installed package counts)

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # replaces bench/, whose folders would hide modules of their names

from bench.bandwidth import report as bandwidth  # noqa: E402
from bench.latency import report as latency  # noqa: E402
from bench.lib import machine, record  # noqa: E402
from bench.lowdim import report as lowdim  # noqa: E402
from bench.peers import report as peers  # noqa: E402
from bench.planner import report as planner  # noqa: E402
from bench.steadiness import report as steadiness  # noqa: E402

REPORTS = {
    "lowdim": lowdim,
    "bandwidth": bandwidth,
    "steadiness": steadiness,
    "planner": planner,
    "latency": latency,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one report, or draw its last results again."""
    options = _parser().parse_args(arguments)
    facts = machine.describe()
    partial = bool(options.quick or options.only)
    name = options.report
    path = record.results_path(facts, f"-{name}" if name else "", partial)
    return REPORTS.get(name, peers).run(options, facts, path, partial)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no page and no pictures")
    chosen = parser.add_mutually_exclusive_group()
    for name in REPORTS:
        chosen.add_argument(f"--{name}", dest="report", action="store_const", const=name, help="this report instead")
    parser.add_argument("--only", metavar="NAME", help="only cases whose name contains NAME; no page and no pictures")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, show the last results again")
    parser.add_argument("--seed", type=int, help="seed of the planner's problems (default: a new one each time)")
    parser.add_argument("--predictions", type=int, default=0, metavar="N", help="of the planner, on N problems")
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # peers warn of deprecations; answers are checked
    sys.exit(main())
