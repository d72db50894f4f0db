"""Every command that the documentation shows is answered, but for those that need a file or the network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tonnage.cli import main

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/training.md")
VERBS = ("train", "serve", "params", "explain", "devices", "models")
ELSEWHERE = ("--from", ".safetensors", "org/name")


def shown(page: str) -> list[str]:
    """Commands of a page that stand for themselves."""
    found = re.findall(r"`tonnage ([^`]+)`", (ROOT / page).read_text())
    return [c for c in found if c.split()[0] in VERBS and not any(word in c for word in ELSEWHERE)]


COMMANDS = sorted({command for page in PAGES for command in shown(page)})


def test_the_pages_show_commands() -> None:
    assert all(shown(page) for page in PAGES)
    assert {command.split()[0] for command in COMMANDS} == set(VERBS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_shown_is_answered(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it fits is another matter."""
    assert main(shlex.split(command)) in (0, 1)
    assert capsys.readouterr().out
