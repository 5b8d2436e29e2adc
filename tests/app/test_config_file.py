"""The configuration file of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.config import Config, read_config
from app.cli.connection import ServerOptions
from app.cli.options import AppliedOptions, BudgetOptions, JobOptions
from app.cli.output import WrongUsage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_file_nothing_is_said(folder: Path) -> None:
    assert read_config(None) == Config()


def test_a_file_in_the_folder_says_what_is_computed_and_not_where(folder: Path) -> None:
    file = folder / "bitbudget.toml"
    file.write_text('objective = "size"\n[layers."conv.1"]\nkeep = true\n')
    assert read_config(None).request == {"objective": "size", "layers": {"conv.1": {"keep": True}}}
    file.write_text('server = "http://elsewhere"\n')
    with pytest.raises(WrongUsage, match="may not name server"):
        read_config(None)
    assert read_config(file).server == "http://elsewhere"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgte = 1", "no budgte; did you mean budget?"),
        ("[budget]\nmax_dorp = 0.1", "no budget.max_dorp; did you mean budget.max_drop?"),
        ("[layers.conv1]\nkep = true", "no layers.conv1.kep; did you mean layers.conv1.keep?"),
        ("[search]\nzzz = 1", "no search.zzz; there are deadline_seconds, drop_per_damage, method"),
        ('model_id = "x"', "no model_id"),
        ("server = 3", "server is a text, got 3"),
        ("= 3", "is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_near_name(folder: Path, text: str, said: str) -> None:
    file = folder / "mine.toml"
    file.write_text(text)
    with pytest.raises(WrongUsage, match=said.replace("?", r"\?")):
        read_config(file)


def test_each_command_takes_what_says_something_of_it(folder: Path) -> None:
    (folder / "bitbudget.toml").write_text('name = "n"\nobjective = "size"\n[budget]\nmax_drop = 0.25\n')
    assert JobOptions().body() == {"name": "n", "objective": "size", "budget": {"max_drop": 0.25}}
    assert BudgetOptions().body() == {"budget": {"max_drop": 0.25}}
    assert AppliedOptions().body() == {}
    assert JobOptions(max_drop=0.5).body()["budget"] == {"max_drop": 0.5}


def test_options_come_before_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "mine.toml"
    file.write_text('server = "http://filed"\nkey = "filed"\n')
    asked: list[tuple[str, str | None]] = []

    class Recorded:
        def __init__(self, server: str, key: str | None) -> None:
            asked.append((server, key))

        def __enter__(self) -> Recorded:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("app.cli.connection.Client", Recorded)
    for options in (ServerOptions(config=file), ServerOptions("http://given", "given", file), ServerOptions()):
        with options.client():
            pass
    assert asked == [("http://filed", "filed"), ("http://given", "given"), ("http://127.0.0.1:8000", None)]
