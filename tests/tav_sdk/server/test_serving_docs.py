"""docs/SERVING.md and the dashboard say what there is."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer.main

from tav_sdk.cli.app import app
from tav_sdk.server.access import Tokens
from tav_sdk.server.jobs import FailureCode
from tav_sdk.server.metrics import Metrics
from tav_sdk.server.openapi import CODES

DOCS = Path(__file__).parents[3] / "docs"
if not DOCS.is_dir():
    pytest.skip("without a checkout there is no documentation", allow_module_level=True)
PAGE = (DOCS / "SERVING.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\btav_[a-z_]+")


def names_of_metrics() -> set[str]:
    """Every name that Prometheus would have, with those of histograms."""
    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_every_option_is_explained():
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    assert {name for name in options - {"--help"} if f"`{name}`" not in PAGE} == set()


def test_every_code_of_a_failed_job_is_explained():
    assert {code for code in get_args(FailureCode) if f"\n| `{code}` |" not in PAGE} == set()


@pytest.mark.parametrize("status", CODES)
def test_every_code_of_an_error_is_in_a_row_of_its_status(status):
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]
    told = " ".join(codes for _, statuses, codes, *_ in rows if str(status) in statuses)
    assert {code for code in CODES[status] if f"`{code}`" not in told} == set()


def test_every_metric_that_is_named_exists():
    named = set(METRIC.findall(PAGE)) | set(METRIC.findall(json.dumps([p["targets"] for p in DASHBOARD["panels"]])))
    assert len(named) > 15
    assert named - names_of_metrics() == set()


def test_the_dashboard_shows_every_metric():
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in METRIC.findall(json.dumps(DASHBOARD))}
    there = {re.sub("_(bucket|sum|count)$", "", name) for name in names_of_metrics()}
    assert shown == there


def test_panels_have_ids_and_places_of_their_own():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) == len(set(places))


def lines_with(word: str) -> str:
    return next(line.strip() for line in PAGE.splitlines() if word in line)


def test_the_line_for_tokens_makes_one_that_is_taken(tmp_path):
    code = lines_with("secrets.token_urlsafe").partition("python -c ")[2].strip('"')
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    token = re.search("token: (.*)", said)
    line = re.search("line: (.*)", said)
    assert token is not None
    assert line is not None
    (tmp_path / "tokens.txt").write_text(line[1] + "\n")
    tokens = Tokens.read(tmp_path / "tokens.txt")
    assert tokens.owner([(b"authorization", f"Bearer {token[1]}".encode())]) == "NAME"


def test_the_backup_is_whole_while_the_database_is_open(tmp_path):
    (tmp_path / "BACKUP").mkdir()
    (tmp_path / "STATE").mkdir()
    with sqlite3.connect(tmp_path / "STATE" / "jobs.sqlite3") as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table t(a)")
        database.execute("insert into t values (1)")
        database.commit()
        code = lines_with(".backup(").partition("python -c ")[2].strip('"')
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    copy = sqlite3.connect(tmp_path / "BACKUP" / "jobs.sqlite3")
    assert copy.execute("select a from t").fetchall() == [(1,)]
    copy.close()
    database.close()
