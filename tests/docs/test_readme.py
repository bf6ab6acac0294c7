"""What README.md shows runs."""

import re
import shlex
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) >= 5
    names = {}
    for text in blocks:
        exec(compile(text, "README.md", "exec"), names)
    assert names["nearest"].shape == (1000, 5)
    assert names["model"].score(names["X_test"], names["y_test"]) > 0.97
    assert (tmp_path / "digits.npz").stat().st_size > 0


def test_it_is_short():
    assert README.count("\n") <= 160


def test_command_lines_are_understood():
    from fastnw.cli.command import _parse

    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("fastnw ")]
    assert len(commands) >= 2
    for arguments in commands:
        assert callable(_parse(arguments).run)


def test_the_two_commands_stand_there_for_ci():
    assert "pip install '.[demo]' && fastnw demo\n" in README
    assert "pip install '.[test]' && pytest -n auto --dist loadfile\n" in README


def test_linked_files_exist():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (root / target).is_file(), target
