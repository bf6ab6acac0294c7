"""The command ``fastnw``: finds the subcommand, runs it, and turns errors into one line and an exit status.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``. Only the one that runs is imported.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastnw._version import __version__
from fastnw.cli.usage import UsageError
from fastnw.runtime.terminal import say

COMMANDS = {
    "demo": ("fastnw.demo", "show fastnw on four tasks: a table of results, CSV files and pictures"),
    "predict": ("fastnw.cli.predict", "predict a column of one table from the rows of another"),
    "info": (
        "fastnw.cli.info",
        "print version, instruction set, threads, backends and extras for a bug report",
    ),
}
EXAMPLES = """\
examples:
  fastnw predict train.csv new.csv --target price
  fastnw predict train.parquet new.parquet --target species --classify --bandwidth 0.5
  fastnw demo --quick
  fastnw info

exit status: 0; 1 if the data are wrong, 2 if the call is wrong, 130 after Ctrl-C
"""
DATA, CALL, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Print unless the stream was closed before the process started: Python 3.10 writes to None then."""
        if file is not None or sys.stderr is not None:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Print one line instead of the whole usage, and exit."""
        say(f"{self.prog}: error: {message} (see {self.prog} --help)")
        self.exit(CALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the name of the program; by default those of the process.

    Returns
    -------
    int
        Exit status: 0; 1 if the data are wrong; 2 if the call is wrong; 130 after Ctrl-C.
    """
    # the encoding of the output may lack characters of a file's or a column's name: they are escaped
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = _status_of_run(list(sys.argv[1:] if argv is None else argv))
    return _flushed() or status


def _status_of_run(argv: list[str]) -> int:
    name = "fastnw"
    try:
        args = _parse(argv)
        name = f"fastnw {args.command}"
        return args.run(args)
    except SystemExit as stop:  # from argparse: --help, --version, errors
        return stop.code if isinstance(stop.code, int) else CALL
    except KeyboardInterrupt:
        say(f"\n{name}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has exited, as in `fastnw info | head -1`
        return DATA
    except Exception as error:
        status = _status_of_error(error)
        if status is None:
            raise
        say(f"{name}: error: {' '.join(str(error).split()) or type(error).__name__}")
        return status


def _flushed() -> int:
    """Write all buffered output: 0, or DATA if it cannot be written. Python would fail to write it at exit."""
    status = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed before the process started
                stream.flush()
        except BrokenPipeError:
            status = DATA
        except OSError as error:
            say(f"fastnw: error: standard output cannot be written: {error.strerror or error}")
            status = DATA
        else:
            continue
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments; the result's `run` is that of the subcommand."""
    parser = _Parser(
        prog="fastnw",
        description="Kernel-weighted prediction (Nadaraya-Watson) from tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastnw {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    requested = next((word for word in argv if not word.startswith("-")), None)
    commands = {}
    for name, (home, summary) in COMMANDS.items():
        command = commands[name] = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == requested:
            module = importlib.import_module(home)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # the error of argparse would not name the subcommand
        commands[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _status_of_error(error: Exception) -> int | None:
    """The exit status for an error of the call or of the data; None for a fault in fastnw."""
    from fastnw.tables import TableError

    if isinstance(error, (UsageError, ImportError)):
        return CALL
    return DATA if isinstance(error, (TableError, OSError, MemoryError)) else None
