"""``tav serve``: its options, what it says when it starts, and the demo."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest

from tav_sdk.cli.serve_demo import NAME, demo_bundles
from tav_sdk.cli.serve_hints import Address, hints
from tav_sdk.errors import MissingExtraError
from tav_sdk.pocket import sample_clip

SKIING = {"id": "skiing", "prompt": "a man is skiing", "source": True}
BARE = {"id": "bare", "prompt": "a car", "source": False}
HERE = Address(url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((".", "--port", 70000), "--port must be a whole number from 0 to 65535, got 70000"),
        ((".", "--workers", 0), "--workers must be a whole number from 1 to 64, got 0"),
        ((".", "--drain", -1), "--drain must be a number from 0 to 100000, got -1.0"),
        ((".", "--job-timeout", "nan"), "--job-timeout must be a number from 0.001 to 1e+06, got nan"),
        ((".", "--keep-alive", "inf"), "--keep-alive must be a number from 0 to 3600, got inf"),
        ((".", "--rate", 0), "--rate must be a number from 0.01 to 1e+06, got 0"),
        ((".", "--max-upload-mb", 0), "--max-upload-mb must be a whole number from 1 to 10000, got 0"),
        ((".", "--log-format", "xml"), "--log-format must be text or json, got 'xml'"),
        ((".", "--engine", "steam"), "there is no engine 'steam'; those that work here: auto"),
        ((".", "--host", "0.0.0.0"), "without tokens the server listens on this machine alone"),
        ((".", "--demo"), "name a folder of bundles, or try it with --demo; got both"),
        (("--port", 0), "name a folder of bundles, or try it with --demo; got neither"),
        (("nowhere",), "nowhere is no folder; expected a folder of bundles"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tav, work, options, text):
    result = tav("serve", *options, "--state", work / "state")
    assert result.exit_code == 2
    assert text in result.stderr
    assert list(work.iterdir()) == []


def test_the_help_has_examples_and_every_limit(tav):
    text = tav("serve", "--help").stdout
    assert "tav serve --demo" in text
    assert all(option in text for option in ("--max-queue", "--keep-days", "--head-timeout", "--allow-origin"))


# --- what it says when it starts --------------------------------------------------------------------------------------


def test_the_hint_edits_the_only_model():
    lines = hints(HERE, [SKIING], bundles=Path("bundles"))
    assert lines[0] == (
        "try it: curl -F 'prompt=a man is skiing, pixel art style' http://127.0.0.1:8000/v1/videos/sync -o edit.mp4"
    )


def test_of_several_models_the_hint_names_one_with_a_clip():
    assert "-F model=skiing" in hints(HERE, [BARE, SKIING], bundles=Path("bundles"))[0]


def test_the_hint_takes_the_default_model():
    address = Address(url="http://x", default_model="bare", has_tokens=True)
    line = hints(address, [BARE, SKIING], bundles=Path("bundles"))[0]
    assert "-F model=bare" in line
    assert '-H "Authorization: Bearer $TOKEN"' in line


def test_a_caption_that_curl_would_read_otherwise_is_sent_as_it_is():
    odd = {**SKIING, "prompt": "@home; a 'man'"}
    words = shlex.split(hints(HERE, [odd], bundles=Path("bundles"))[0].partition(": ")[2])
    assert words[1:3] == ["--form-string", "prompt=@home; a 'man', pixel art style"]


def test_without_models_the_hint_says_how_to_get_one():
    assert [line.partition(":")[0] for line in hints(HERE, [], bundles=Path("b"))][1:] == ["or tune on a clip"]
    no_tunings = Address(url="http://x", takes_tunings=False)
    (line,) = hints(no_tunings, [], bundles=Path("b"))
    assert line.startswith("there are no models yet; put bundles into b")


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demo_is_made_once_and_served(work, monkeypatch, traced_once):
    bundles = demo_bundles(work / "state", num_train_steps=1)
    assert sorted(path.name for path in bundles.iterdir()) == [NAME, f"{NAME}.mp4"]
    assert (bundles / f"{NAME}.mp4").read_bytes() == sample_clip(NAME).path.read_bytes()
    made = (bundles / NAME / "manifest.json").stat().st_mtime_ns
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # nothing is needed any more
    assert demo_bundles(work / "state") == bundles
    assert (bundles / NAME / "manifest.json").stat().st_mtime_ns == made
    assert not (bundles.parent / "run").exists()


def test_a_demo_that_was_cut_off_is_made_anew(work, monkeypatch):
    (work / "state" / "demo" / "bundles" / NAME).mkdir(parents=True)
    made = []
    monkeypatch.setattr("tav_sdk.cli.serve_demo._make", lambda *given: made.append(given))
    demo_bundles(work / "state")
    assert len(made) == 1


def test_the_demo_without_its_extras_says_what_to_install(work, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(MissingExtraError, match=r'pip install "tav-sdk\[server,training,export\]"'):
        demo_bundles(work / "state")
    assert list(work.iterdir()) == []
