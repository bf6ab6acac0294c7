"""Tables as Markdown, and the page that shows them between markers."""

from __future__ import annotations

from pathlib import Path


def where(machine: dict) -> str:
    """Machine, day and versions, as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['cpu']}, {machine['isa']}, threads: {machine['threads']}, {machine['date'][:10]}; Python "
        f"{machine['python']}, {versions}."
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table that is legible as plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def short(number: float) -> str:
    """Three digits."""
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def word(reached: bool | None) -> str:
    """Whether a goal was reached; a dash where it could not be judged."""
    return {True: "yes", False: "**no**", None: "–"}[reached]


def write_section(page: Path, text: str, start: str, end: str) -> None:
    """Replace what stands between two markers of a page.

    Raises
    ------
    ValueError
        The page does not have both markers.
    """
    before, opened, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{page.name} must have the markers {start} and {end}. Add them where the table belongs.")
    page.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
    print(f"wrote the section {start} of {page.name}")
