"""What holds for every page: commands that exist, files that exist, links that lead somewhere, codes that are known."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer.main

from app.cli import app as command_line
from app.errors import CATALOGUE
from app.settings import CLIENT_VARIABLES, PREFIX, TEST_PREFIX, Settings

ROOT = Path(__file__).parents[2]


def _command_lines(page: Any) -> list[list[str]]:
    """The words of every `bitbudget ...` in the page's code, without what a pipe or a comment follows with."""
    code = [*page.blocks("sh"), *page.blocks(""), *re.findall(r"(?<!`)`(bitbudget [^`]*)`(?!`)", page.text)]
    lines = []
    for block in code:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\()(bitbudget [^|#)]*)", line)
            if found:
                lines.append(shlex.split(found[1]))
    return lines


def _commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command by its name; one of a group by both words."""
    commands = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        commands.update({f"{prefix}{name}": command} if inner is None else _commands(command, f"{prefix}{name} "))
    return commands


def _options_of_all() -> set[str]:
    """Those that stand in place of a command."""
    return {option for p in typer.main.get_command(command_line).params for option in p.opts} | {"--help"}


def test_every_command_in_the_pages_exists_with_its_options(documented: list[Any]) -> None:
    commands, of_all = _commands(typer.main.get_command(command_line)), _options_of_all()
    seen = set()
    for page in documented:
        for words in _command_lines(page):
            name, *rest = words[1:]
            if name in of_all:
                continue
            if rest and f"{name} {rest[0]}" in commands:
                name, *rest = f"{name} {rest[0]}", *rest[1:]
            assert name in commands, f"{page.path.name}: there is no command {name!r}"
            known = {option for parameter in commands[name].params for option in parameter.opts}
            for word in rest:
                if word.startswith("--"):
                    assert word.partition("=")[0] in known, f"{page.path.name}: bitbudget {name} has no {word}"
            seen.add(name)
    assert seen == set(commands)


def test_every_option_that_a_page_names_exists(documented: list[Any]) -> None:
    commands = _commands(typer.main.get_command(command_line))
    known = {option for command in commands.values() for p in command.params for option in p.opts} | _options_of_all()
    for page in documented:
        for option in re.findall(r"`(--[a-z-]+)[^`]*`", page.text):
            assert option in known, f"{page.path.name} names {option}"


def test_every_variable_that_a_page_names_is_a_setting(documented: list[Any]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES | {PREFIX, TEST_PREFIX}
    for page in documented:
        unknown = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*", page.text)) - known
        assert not unknown, page.path.name


def test_every_file_that_a_page_names_is_there(documented: list[Any]) -> None:
    folders = "|".join([*_packages(), "examples", "benchmarks", "docs", "tests"])
    for page in documented:
        for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.text):
            assert (ROOT / name).exists(), f"{page.path.name} names {name}"


def test_the_readme_names_every_folder_of_the_product(documented: list[Any]) -> None:
    (readme,) = [page for page in documented if page.path.name == "README.md"]
    folders = {name.strip("`") for name, _ in readme.rows("More") if not name.startswith("[")}
    assert folders == _packages() - {"migrations", "benchmarks", "documentation"}


def test_the_readme_names_every_page(documented: list[Any]) -> None:
    (readme,) = [page for page in documented if page.path.name == "README.md"]
    pages = {str(page.path.relative_to(ROOT)) for page in documented if page.path.is_relative_to(ROOT / "docs")}
    assert set(re.findall(r"\]\(([^)#]*)", readme.section("More"))) >= pages


def _packages() -> set[str]:
    """The folders of the product."""
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_every_link_leads_to_a_page_and_a_heading(documented: list[Any]) -> None:
    for page in documented:
        for target in re.findall(r"\]\(([^)#:\s]*)(?:#[\w-]*)?\)", page.text):
            if target:
                assert (page.path.parent / target).exists(), f"{page.path.name} links to {target}"
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", page.text):
            there = (page.path.parent / target).read_text() if target else page.text
            headings = {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.*)$", there, re.MULTILINE)
            }
            assert anchor in headings, f"{page.path.name} links to #{anchor}"


def test_every_error_code_of_operations_and_threat_model_is_known(documented: list[Any]) -> None:
    for page in documented:
        for code in re.findall(r"`((?:model|dataset|plan)_[a-z_]+)`", page.text):
            if code not in ("model_id", "dataset_id", "model_sha256", "dataset_sha256"):
                assert code in CATALOGUE, f"{page.path.name} names {code}"
