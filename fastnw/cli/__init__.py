"""The command ``fastnw``: finds the subcommand, runs it, and turns errors into one line and an exit status.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``; only the one asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastnw import __version__

COMMANDS = {
    "demo": ("fastnw.demo", "what fastnw does, on four tasks: a table, CSV files, pictures"),
    "predict": ("fastnw.cli.predict", "predict a column of one table from the rows of another"),
    "info": (
        "fastnw.cli.info",
        "version, instruction set, threads, backends and extras, as a bug report needs them",
    ),
}
EXAMPLES = """\
examples:
  fastnw predict train.csv new.csv --target price
  fastnw predict train.parquet new.parquet --target species --classify --bandwidth 0.5
  fastnw demo --quick
  fastnw info

exit status: 0; 1 if the data are at fault, 2 if the call is, 130 after Ctrl-C
"""
DATA, CALL, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(CALL, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit status: 0; 1, the data's fault; 2, the call's fault; 130 after Ctrl-C.
    """
    name = "fastnw"
    try:
        args = _parse(list(sys.argv[1:] if argv is None else argv))
        name = f"fastnw {args.command}"
        status = args.run(args)
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # of argparse: --help, --version, errors
        return stop.code if isinstance(stop.code, int) else CALL
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `fastnw info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DATA
    except Exception as error:
        faulty = _status(error)
        if faulty is None:
            raise
        print(f"{name}: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return faulty


def _parse(argv: list[str]) -> argparse.Namespace:
    """The arguments, with the subcommand's `run`."""
    parser = _Parser(
        prog="fastnw",
        description="Kernel-weighted prediction (Nadaraya-Watson) from tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastnw {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    commands = {}
    for name, (home, summary) in COMMANDS.items():
        command = commands[name] = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == asked:
            module = importlib.import_module(home)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # left to argparse, the error would not name the subcommand
        commands[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _status(error: Exception) -> int | None:
    """Whose fault an error is; None if it is ours."""
    from fastnw.cli.predict import UsageError
    from fastnw.tables import TableError

    if isinstance(error, (UsageError, ImportError)):
        return CALL
    return DATA if isinstance(error, (TableError, OSError, MemoryError)) else None
