"""benchmarks/fuzz.py holds two checkouts against each other."""

from __future__ import annotations

import json

import pytest

from benchmarks import fuzz
from benchmarks.reliability_tables import RELIABILITY_TABLES


def _result(wrong: int) -> dict:
    return {
        "tried": 3,
        "wrong": wrong,
        "formats": {"mp4": {"tried": 3, "wrong": wrong}, "tuned": {"tried": 0, "wrong": 0}},
    }


def test_before_and_now_are_tried_with_the_same_seeds(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(fuzz, "tried", lambda *words: calls.append(words) or _result(2 - len(calls)))
    path = tmp_path / "fuzz.json"
    fuzz.main(["--before", str(tmp_path), "--examples", "3", "--seed", "5", "--json", str(path)])
    before, now = calls
    assert before == ("--tree", str(tmp_path), *now)
    assert "| mp4    |   3: 1 | 3: 0 |" in capsys.readouterr().out
    head, rows = RELIABILITY_TABLES["fuzz"].lines(json.loads(path.read_text()))
    assert head[0] == "format"
    assert rows == [
        ["mp4", "3", "1", "3", "0", "-", "-"],
        ["tuned", "-", "-", "-", "-", "-", "-"],
        ["all", "3", "1", "3", "0", "-", "-"],
    ]


def test_a_run_without_a_result_is_an_error():
    with pytest.raises(RuntimeError, match="no result"):
        fuzz.tried("--no-such-option")
