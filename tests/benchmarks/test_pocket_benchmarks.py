"""The benchmarks of editing with Pocket run, say what they promise, and go on where they were stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import ablation, control_edits, fast_edits, inversion_variants, pocket_edits, precision_edits
from benchmarks.edit_study import EditStudy, means_of, score_columns
from benchmarks.pocket_classifier import Verdict
from benchmarks.pocket_editing import KINDS, edits_of
from benchmarks.pocket_judge import body_color
from tav_sdk.pocket import FOLDER, sample_clips
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS

needs_pocket = pytest.mark.skipif(not (FOLDER / "unet").is_dir(), reason="the base is not in the package folder")
FEW = ["--num-train-steps", "2", "--num-inference-steps", "2", "--clips", "1"]


@pytest.mark.parametrize("name", SAMPLE_CLIPS)
def test_a_clip_has_two_edits_of_each_kind(name):
    edits, source = edits_of(name), SAMPLE_CLIPS[name]
    assert [edit.kind for edit in edits] == [kind for kind in KINDS for _ in range(2)]
    assert len({edit.prompt for edit in edits}) == 8
    for edit in edits:
        changed = {part for part in ("subject", "background") if getattr(edit, part) != source[part]}
        assert changed <= ({"subject"} if edit.kind in ("subject", "color") else {edit.kind})
        assert edit.color is None or edit.color in edit.prompt
        assert edit.color is not None or edit.kind != "color"


def test_body_color_is_that_around_the_judged_middle():
    frame = np.full((64, 64, 3), (30, 200, 30), np.uint8)
    frame[20:44, 30:60] = (60, 100, 240)
    verdict = Verdict(subject="car", background="grass", style="plain", center=(0.7, 0.5))
    assert body_color(frame, verdict) == "blue"
    assert body_color(np.full_like(frame, 128), verdict) is None


def test_the_background_is_what_is_far_from_the_subject():
    source, centers = np.full((2, 64, 64, 3), 100, np.uint8), np.array([[0.2, 0.5], [0.8, 0.5]])
    near = source.copy()
    near[0, 32, :32] = 0
    assert inversion_variants.background_psnr(source, near, centers) == np.inf
    far = source + np.uint8(10)
    assert inversion_variants.background_psnr(source, far, centers) == pytest.approx(20 * np.log10(25.5))


def test_a_guided_unet_predicts_what_guidance_makes_of_both_halves():
    def unet(sample, timestep, encoder_hidden_states):
        return sample * encoder_hidden_states.mean(axis=(1, 2))[:, None, None, None, None]

    sample, states = np.ones((1, 4, 2, 3, 3), np.float32), np.ones((1, 5, 6), np.float32)
    predicted = inversion_variants.guided(unet, 2 * states, 3.5)(sample, np.asarray(1), 4 * states)
    np.testing.assert_allclose(predicted, 9 * sample)


def test_summary_leaves_out_scores_that_an_edit_has_not():
    scores = dict.fromkeys(pocket_edits.SCORES, 1.0)
    found = pocket_edits.summary([{"scores": {**scores, "color": None}}, {"scores": {**scores, "subject": 0.5}}])
    assert found["subject"] == {"mean": 0.75, "median": 0.75}
    assert found["color"] == {"mean": 1.0, "median": 1.0}
    assert pocket_edits.summary([])["style"] is None


@needs_pocket
def test_a_study_makes_each_clip_once_and_writes_what_its_table_needs(tmp_path, capsys):
    made: list[str] = []

    def edit_clip(clip):
        made.append(clip.sample.name)
        frames = np.full((8, 64, 64, 3), 128, np.uint8)
        return {"edits": [clip.entry(edit, frames, seed=clip.options.seed) for edit in clip.edits]}, {"grey": frames}

    study = EditStudy(
        name="grey",
        about=None,
        edit_clip=edit_clip,
        summary=lambda clips: {"grey": means_of([edit for clip in clips for edit in clip["edits"]], ["all", "none"])},
        first="what",
        columns=score_columns(["all", "none"]),
        clips=2,
        kinds=("style",),
        suffix=".grey",
        add_options=lambda parser: parser.add_argument("--seed", type=int, default=7),
    )
    study.main(["--out", str(tmp_path), "--edits", "1"])
    assert made == list(sample_clips())[:2]
    assert {path.name for path in tmp_path.iterdir()} == {
        "grey.json",
        *(f"{name}.grey.{end}" for name in made for end in ("json", "png")),
    }
    result = json.loads((tmp_path / "grey.json").read_text())
    assert result["command"] == "python -m benchmarks.grey --clips 2 --edits 1 --seed 7"
    assert result["summary"] == {"grey": {"all": 0, "none": None}}
    (edit,) = json.loads((tmp_path / f"{made[0]}.grey.json").read_text())["edits"]
    assert (edit["kind"], edit["seed"]) == ("style", 7)
    assert "| grey |   0 |    - |" in capsys.readouterr().out

    (tmp_path / f"{made[1]}.grey.json").unlink()
    study.main(["--out", str(tmp_path), "--edits", "1"])
    assert made[2:] == [made[1]]
    assert f"{made[0]}: finished before" in capsys.readouterr().err


@needs_pocket
def test_pocket_edits_skips_a_finished_clip(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path), "--edits", "1", *FEW]
    pocket_edits.main(arguments)
    result = json.loads((tmp_path / "edits.json").read_text())
    name = next(iter(sample_clips()))
    assert [clip["clip"] for clip in result["clips"]] == [name]
    assert set(result["clips"][0]["edits"][0]["scores"]) >= set(pocket_edits.SCORES)
    assert result["summary"]["all"]["subject"].keys() == {"mean", "median"}
    assert (tmp_path / "clips" / f"{name}.png").stat().st_size > 1000
    assert "| edits" in capsys.readouterr().out

    with monkeypatch.context() as patch:
        patch.setattr(pocket_edits, "edit_clip", None)  # calling it would be an error
        pocket_edits.main(arguments)
        with pytest.raises(TypeError):
            pocket_edits.main([*arguments, "--seed", "5"])
    assert "finished before" in capsys.readouterr().err


@needs_pocket
def test_ablation_makes_only_the_parts_that_are_missing(tmp_path, monkeypatch):
    arguments = ["--out", str(tmp_path), "--quick", "--rows", "untuned", "vdm"]
    ablation.main(arguments)
    result = json.loads((tmp_path / "ablation.json").read_text())
    assert {(edit["row"], edit["start"]) for edit in result["edits"]} == {
        (row, start) for row in ("untuned", "vdm") for start in ablation.STARTS
    }
    assert set(result["edits"][0]["scores"]) >= set(ablation.SCORES)
    assert result["summary"]["noise"]["vdm"]["trajectory"]["count"] == 1
    assert result["costs"]["ours"]["U-Net call"]["ratio"] == 1
    assert "tuning step" not in result["costs"]["untuned"]
    text = (tmp_path / "ablation.md").read_text()
    assert text.count("| VDM baseline") == 3
    assert all((tmp_path / f"ablation-{start}.png").is_file() for start in ablation.STARTS)

    made: list[str] = []
    make_part = ablation.make_part

    def counted(path, *args, **kwargs):
        made.append(path.stem)
        make_part(path, *args, **kwargs)

    monkeypatch.setattr(ablation, "make_part", counted)
    monkeypatch.setattr(ablation, "measure_costs", lambda *_: result["costs"])
    ablation.main(arguments)
    assert made == []
    lost = next((tmp_path / "parts").glob("vdm-*.npz"))
    lost.unlink()
    ablation.main(arguments)
    assert made == [lost.stem]
    again = json.loads((tmp_path / "ablation.json").read_text())
    assert again["summary"] == result["summary"]


@needs_pocket
def test_an_interrupted_part_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "measure_costs", lambda *_: {})
    monkeypatch.setattr(ablation.np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablation.main(["--out", str(tmp_path), "--quick", "--rows", "untuned"])
    assert not list(tmp_path.rglob("*.npz"))


@needs_pocket
@pytest.mark.slow
def test_precision_edits_compares_every_precision_with_fp32(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--clips", "1", "--edits", "1", "--num-train-steps", "2"]
    precision_edits.main(arguments)
    result = json.loads((tmp_path / "precision_edits.json").read_text())["summary"]
    assert "psnr_median" not in result["fp32"]
    assert result["fp16"]["psnr_median"] > result["bf16"]["psnr_median"] > result["int8"]["psnr_median"] > 20
    assert "| precision | psnr_median |" in capsys.readouterr().out


@needs_pocket
@pytest.mark.slow
def test_inversion_variants_compares_all_and_goes_on(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path), "--clips", "1", "--edits", "1", "--num-train-steps", "2"]
    inversion_variants.main(arguments)
    result = json.loads((tmp_path / "inversion_variants.json").read_text())["summary"]
    assert list(result) == list(inversion_variants.VARIANTS)
    guided, plain = result["direct, guided source"]["caption_psnr"], result["none"]["caption_psnr"]
    assert guided > plain  # it gives the clip back
    assert (tmp_path / "car-road.variants.png").is_file()
    assert "| variant" in capsys.readouterr().out
    monkeypatch.setattr(inversion_variants, "edit_clip", None)  # calling it would be an error
    inversion_variants.main(arguments)


@needs_pocket
@pytest.mark.slow
def test_control_edits_compares_edges_with_and_without_control(tmp_path, capsys):
    control_edits.main(["--out", str(tmp_path), "--clips", "1", "--edits", "1", "--num-train-steps", "2"])
    result = json.loads((tmp_path / "control_edits.json").read_text())["summary"]
    assert result["noise, 1"]["edges"] > result["noise, 0"]["edges"] + 0.1
    assert "edges agree" in capsys.readouterr().out


def test_edges_are_compared_around_the_subject():
    maps = np.full((2, 64, 64, 3), 255, np.uint8)
    left = control_edits.near(maps, np.array([[0.2, 0.5], [0.8, 0.5]]))
    assert left[0, 32, 10].all()
    assert not left[0, 32, 60].any()
    assert left[1, 32, 60].all()
    assert not left[1, 2, 60].any()


@needs_pocket
@pytest.mark.slow
def test_fast_edits_compares_all_and_goes_on(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path), "--clips", "1", "--edits", "1", "--num-train-steps", "2"]
    fast_edits.main(arguments)
    result = json.loads((tmp_path / "fast_edits.json").read_text())["summary"]
    assert list(result) == list(fast_edits.CANDIDATES)
    assert abs(result["fast"]["reconstruction"] - result["default"]["reconstruction"]) < 2
    assert (tmp_path / "car-road.fast.png").is_file()
    assert "| bf16, fast |" in capsys.readouterr().out
    monkeypatch.setattr(fast_edits, "edit_clip", None)  # calling it would be an error
    fast_edits.main(arguments)
