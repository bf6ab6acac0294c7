"""Draw problems, judge fastnw's answers, print what failed.

python tests/robustness/fuzz.py --problems 50000 --seed 1
python tests/robustness/fuzz.py --seed 1 --index 4711        one problem, made smaller
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests), str(tests / "support")]

from robustness.draw import Problem, draw, draw_for_numba
from robustness.judge import Verdict, judge
from robustness.shrink import shrunk

Found = dict[tuple[str, str, str], list[tuple[int, str]]]


def search(
    seed: int, indices: range, draw: Callable[[int, int], Problem] = draw, talk: bool = False
) -> tuple[Counter[str], Found]:
    """How often each outcome came, and the faults by (family, method, kind) as (index, words)."""
    outcomes: Counter[str] = Counter()
    found: Found = defaultdict(list)
    for index in indices:
        problem = draw(seed, index)
        verdict = judge(problem, index)
        outcomes[verdict.outcome] += 1
        outcomes["warned"] += verdict.warned
        for kind, words in {kind: words for kind, words in reversed(verdict.faults)}.items():
            found[problem.family, str(problem.options.get("method")), kind].append((index, words))
            if talk:
                print(f"  {index} {problem.family}: {kind}", file=sys.stderr, flush=True)
        if talk and (index + 1) % 1000 == 0:
            print(f"{index + 1} problems, {outcomes['broken']} broken", file=sys.stderr, flush=True)
    return outcomes, found


def told(seed: int, outcomes: Counter[str], found: Found) -> str:
    """The summary: a line a class with its first problem."""
    lines = [f"seed {seed}: " + ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))]
    for (family, method, kind), faults in sorted(found.items(), key=lambda item: -len(item[1])):
        index, words = faults[0]
        lines.append(f"{len(faults):5d} {kind} of {family}, method {method}; --seed {seed} --index {index}: {words}")
    return "\n".join(lines)


def show(seed: int, index: int, draw: Callable[[int, int], Problem] = draw) -> None:
    """Print one problem, its verdict, and the smallest problem found that has the same fault."""
    problem = draw(seed, index)
    verdict = judge(problem, index)
    print(problem, verdict, sep="\n")
    for kind in dict.fromkeys(kind for kind, _ in verdict.faults):
        _show_small(shrunk(problem, kind, index), index)


def _show_small(problem: Problem, index: int) -> None:
    verdict: Verdict = judge(problem, index)
    print(f"\nsmaller: {problem}")
    for name in ("queries", "keys", "values"):
        print(f"{name} = {getattr(problem, name)!r}")
    for name, value in problem.options.items():
        print(f"{name} = {value!r}")
    print(*verdict.faults, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int)
    parser.add_argument("--numba", action="store_true", help="problems for that backend")
    options = parser.parse_args()
    chosen = draw_for_numba if options.numba else draw
    if options.index is not None:
        show(options.seed, options.index, chosen)
        return
    start = time.process_time()
    outcomes, found = search(options.seed, range(options.first, options.first + options.problems), chosen, talk=True)
    print(told(options.seed, outcomes, found))
    print(f"{time.process_time() - start:.0f} s of processor time")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
