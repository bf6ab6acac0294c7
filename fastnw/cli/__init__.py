"""The command ``fastnw``: finds the subcommand, runs it, and turns errors into one line and an exit status.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``; only the one asked for is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastnw._version import __version__

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
        say(f"{self.prog}: error: {message} (see {self.prog} --help)")
        self.exit(CALL)


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
    # a file's name or a column's may not be in the output's alphabet, which is no reason to fail
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
    except SystemExit as stop:  # of argparse: --help, --version, errors
        return stop.code if isinstance(stop.code, int) else CALL
    except KeyboardInterrupt:
        say(f"\n{name}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `fastnw info | head -1`
        return DATA
    except Exception as error:
        faulty = _status(error)
        if faulty is None:
            raise
        say(f"{name}: error: {' '.join(str(error).split()) or type(error).__name__}")
        return faulty


def _flushed() -> int:
    """0 once all output is written; DATA if it cannot be: Python would fail over the rest of it at exit."""
    status = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed before we were started
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


def say(message: str) -> None:
    """Print a line to standard error, if that is there to be written to."""
    if sys.stderr is not None:  # print would take standard output for it
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)


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
