"""The Python in the documentation runs, page by page, in a folder of its own."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```(?!python)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(mlreg [^`]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def _commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _commands(command)
        else:
            yield command


def _lines(block: str) -> Iterator[list[str]]:
    """The words of each line of a shell block that calls `mlreg`, which may go on in the next line."""
    begun = ""
    for line in block.split("\n"):
        if begun or re.match(r"(\w+=\S+ )*mlreg ", line):
            try:
                words = shlex.split(begun + line, comments=True)
            except ValueError:  # a quotation or a line that goes on
                begun += f"{line}\n"
                continue
            begun = ""
            yield words[words.index("mlreg") + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_is_one(page, monkeypatch):
    for command in _commands(cli):
        monkeypatch.setattr(command, "callback", lambda **_: None)
    text = page.read_text(encoding="utf-8")
    whole = [words for block in FENCED.findall(text) for words in _lines(block)]
    named = [shlex.split(re.sub(r"[…\[\]]", "", line))[1:] for line in INLINE.findall(text)]
    for words in (*whole, *named):
        said = CliRunner().invoke(cli, words).output
        wrong = re.findall(r"^Error: (.*)", said, re.MULTILINE)
        # Files of a page are not here; and running text may name a command without what it wants.
        excused = (
            ("does not exist", "Missing", "requires an argument") if words in named else ("does not exist",)
        )
        assert not wrong or any(excuse in wrong[0] for excuse in excused), (
            f"mlreg {shlex.join(words)}: {said}"
        )
