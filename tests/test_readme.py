"""The commands and the code of the documentation are ones that exist."""

import re
import shlex

import pytest
import typer.main

from kvw.cli import app
from tests.conftest import ROOT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "example/README.md", "voices/README.md"]


def commands() -> list[str]:
    """Every `uv run main.py …` and `kvw …` of the documents and of --help."""
    helped = typer.main.get_command(app).help or ""
    texts = [(ROOT / name).read_text() for name in DOCUMENTS if (ROOT / name).is_file()]
    found = []
    for text in [*texts, helped]:
        found += re.findall(
            r"(?:uv run (?:--\S+ )*(?:\S+ )?main\.py|^ *kvw) (--[^\n`|]*)", text, re.M
        )
    return sorted({one.strip() for one in found})


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documentation_is_understood(command):
    arguments = shlex.split(command.replace("…", ""))
    if "--help" not in arguments:
        typer.main.get_command(app).make_context("kvw", arguments)


def test_the_documentation_shows_every_mode():
    shown = " ".join(commands())
    for flag in ("--target_audio", "--test_voice", "--resume", "--export_bin", "--transcribe_many"):
        assert flag in shown


def test_every_path_that_the_readme_links_or_lists_exists():
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", readme)
    [tree] = re.findall(r"## What is where\n+```\n(.*?)```", readme, re.S)
    listed = re.findall(r"^  (\w[\w./ ]*\.py|\w+/)", tree, re.M)
    inside = [f"kvw/{name}" for line in listed for name in line.split()]
    top = [name for name in re.findall(r"^(\w[\w.]*/?)(?: |$)", tree, re.M) if name != "out/"]
    assert len(links) >= 2
    assert len(inside) >= 15
    assert len(top) >= 6
    for path in (*links, *inside, *top):
        assert (ROOT / path).exists(), path


def test_every_module_is_in_the_readmes_tree():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "kvw").glob("*"):
        if path.suffix == ".py" and path.stem not in ("__init__", "errors", "files"):
            assert path.name in readme, path.name
