"""Every table of measurements in the documentation comes from a file, and no table of numbers stands by itself."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import tables
from benchmarks.edit_tables import ABLATION_NAMES
from benchmarks.result_table import Column, table_rows

if not (tables.ROOT / "docs").is_dir():
    pytest.skip("without a checkout there is no documentation", allow_module_level=True)

MARKED = [(page.name, found["name"]) for page in tables.pages() for found in tables.MARKED.finditer(page.read_text())]
TABLE = re.compile(r"(?m)^\|.*\n\| *:?-[-| :]*\n(?:\|.*\n)*")
NOT_MEASURED = {
    ("API.md", "| name | what it does |"),
    ("BASES.md", "| kind | one command |"),
    ("CLIENT.md", "| method | does |"),
    ("CLIENT.md", "| error | when |"),
    ("CONTROL.md", "| `--control` | what it is |"),
    ("ENGINES.md", "| `--engine` | runs on | needs |"),
    ("ENGINES.md", "| | text encoder | VAE | U-Net | U-Net's islands in float32 |"),
    ("ENGINES.md", "| cache | what | limit |"),
    ("EVALUATION.md", "| name | definition | source |"),
    ("POCKET.md", "| Part | Words |"),
    ("POCKET.md", "| Stage | Network | Loss |"),
    ("SERVING.md", "| option | default | what it does |"),
    ("SERVING.md", "| status | codes | what to do |"),
    ("SERVING.md", "| code of a failed job | why |"),
    ("SERVING.md", "| alert on | because |"),
}
"""Tables that say what there is, by page and head; numbers in them are settings."""


@pytest.mark.parametrize(("page", "name"), MARKED)
def test_a_table_is_what_was_measured(page, name):
    text = next(path for path in tables.pages() if path.name == page).read_text()
    shown = next(found["lines"] for found in tables.MARKED.finditer(text) if found["name"] == name)
    assert shown == tables.rendered(name) + "\n", "write it anew with: python -m benchmarks.tables"


def test_each_table_stands_once_and_each_file_is_shown():
    names = [name for _, name in MARKED]
    assert len(names) == len(set(names)) > 20
    assert set(tables.TABLES) <= set(names)
    files = set((tables.RESULTS / "tables").glob("*.json"))
    assert files == {source for name in names if (source := tables.source_of(name)).parent.name == "tables"}


@pytest.mark.parametrize("path", sorted((tables.RESULTS / "tables").glob("*.json")), ids=lambda path: path.stem)
def test_a_file_says_what_made_it(path):
    measured = json.loads(path.read_text())
    assert measured["command"]
    assert "machine" in measured


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_no_table_of_numbers_is_without_a_marker(page):
    text = page.read_text()
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(list(tables.MARKED.finditer(text)))
    heads = {found[0].partition("\n")[0] for found in TABLE.finditer(tables.MARKED.sub("", text))}
    assert {(page.name, head) for head in heads} <= NOT_MEASURED


def test_a_number_that_was_changed_is_found_and_written_anew(tmp_path, monkeypatch, capsys):
    text = (tables.ROOT / "docs" / "RESULTS.md").read_text()
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "RESULTS.md"
    page.write_text(text.replace("0.763", "0.963", 1))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "pages", lambda: [page])
    assert tables.main(["--check"]) == 1
    assert "RESULTS.md differs from the measurements: control-edits" in capsys.readouterr().err
    assert tables.main([]) == 0
    assert page.read_text() == text
    assert tables.main(["--check"]) == 0


def test_a_column_takes_one_value_or_several_or_says_that_there_is_none():
    results = {"a": {"x": {"mean": 1.234, "std": 0.1}}, "b": {"x": None}}
    columns = [Column("x", "x.mean", "{:.2f}"), Column("y", ("x.mean", "x.std"), "{:.1f} ± {:.1f}", "")]
    assert table_rows(results, columns) == [["a", "1.23", "1.2 ± 0.1"], ["b", "-", ""]]
    assert table_rows(results, columns, {"b": "second"}) == [["second", "-", ""]]


def test_the_rows_of_the_ablation_have_the_names_of_the_benchmark():
    from benchmarks.ablation import ROWS

    assert {row.key: row.name for row in ROWS} == ABLATION_NAMES
