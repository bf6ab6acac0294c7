"""``fastnw demo``: four tasks, from forty points of a textbook to 10¹² pairs, with a table, CSV files and pictures."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from fastnw.runtime.terminal import say
from fastnw.tables import TableError

if TYPE_CHECKING:
    from fastnw.demo.parts import Job, Result

LARGE_KEYS, LARGE_QUERIES = 1_000_000, 1_000_000  # of part d
QUICK_KEYS, QUICK_QUERIES = 20_000, 2_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options to a parser."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("fastnw-demo"),
        metavar="DIR",
        help="folder for pictures and tables; files of an earlier demo are replaced (default: %(default)s)",
    )
    seed_help = "seed of all random choices (default: %(default)s)"
    parser.add_argument("--seed", type=_count(0, 2**32 - 1), default=0, metavar="N", help=seed_help)
    parser.add_argument("--keys", type=_count(2), metavar="N", help=f"keys of part d (default: {LARGE_KEYS:,})")
    parser.add_argument(
        "--queries", type=_count(1), metavar="M", help=f"queries of part d (default: {LARGE_QUERIES:,})"
    )
    quick_help = f"a small part d: {QUICK_KEYS:,} keys, {QUICK_QUERIES:,} queries"
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument("--no-pictures", action="store_true", help="tables only")
    chapter_help = "the five figures of the d2l.ai chapter and their numbers instead (with --out and --seed only)"
    parser.add_argument("--chapter", action="store_true", help=chapter_help)


def run(args: argparse.Namespace) -> int:
    """Run the four parts and print their table, or draw the chapter's figures.

    Returns
    -------
    int
        The exit status: 0, or 1 if the check of part d exceeds the tolerance, or 2 if a file cannot be written.
    """
    if args.chapter and (args.quick or args.no_pictures or args.keys or args.queries):
        return _refuse("--chapter supports --out and --seed only. Leave the other options out.")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _refuse(f"cannot make the folder {args.out}: {error.strerror or error}.")
    return _chapter(args) if args.chapter else _parts(args)


def _chapter(args: argparse.Namespace) -> int:
    from fastnw.demo import chapter

    try:
        return chapter.run(args.out, args.seed)
    except BrokenPipeError:  # a closed standard output is no fault of the folder
        raise
    except OSError as error:
        return _refuse(str(error))


def _parts(args: argparse.Namespace) -> int:
    from fastnw.demo import parts

    job = parts.Job(
        out=args.out,
        seed=args.seed,
        pictures=not args.no_pictures and _can_draw(),
        keys=args.keys or (QUICK_KEYS if args.quick else LARGE_KEYS),
        queries=args.queries or (QUICK_QUERIES if args.quick else LARGE_QUERIES),
    )
    results = []
    start = time.perf_counter()
    for letter, part in zip("abcd", (parts.chapter, parts.digits, parts.diabetes, parts.large_scale), strict=True):
        try:
            results.append(_timed(letter, part, job))
        except BrokenPipeError:  # a closed standard output is no fault of the folder
            raise
        except (TableError, OSError) as error:
            return _refuse(str(error))
    print(f"\n{format_table(results)}\n")
    print(f"All four parts took {time.perf_counter() - start:.1f} s. Files in {args.out}:")
    print("\n".join(f"  {file.name}" for result in results for file in result.files))
    return 0 if all(result.ok for result in results) else 1


def format_table(results: list[Result]) -> str:
    """Format the results as aligned columns: part, data, result and time; data and result may have several lines."""
    rows = [("part", "data", "result", "time")]
    for result in results:
        cells = ([result.title], result.data, result.lines, [f"{result.seconds:.1f} s"])
        rows.extend(zip_longest(*cells, fillvalue=""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    return "\n".join(
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in rows
    )


def _timed(letter: str, part: Callable[[Job], Result], job: Job) -> Result:
    start = time.perf_counter()
    result = part(job)
    result.seconds = time.perf_counter() - start
    result.title = f"{letter}  {result.title}"
    print(f"{result.title}: {result.seconds:.1f} s", flush=True)
    return result


def _can_draw() -> bool:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        print("No pictures: matplotlib is not installed. Install it with: pip install 'fastnw[plot]'", flush=True)
        return False
    return True


def _refuse(message: str) -> int:
    say(f"fastnw demo: error: {message}")
    return 2


def _count(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Return a parser of integers from `least` to `most` for argparse, which accepts 1_000_000 and 1,000,000, too."""

    def read(text: str) -> int:
        try:
            number = int(text.replace(",", ""))
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            limit = "" if most == math.inf else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}{limit}")
        return number

    return read
