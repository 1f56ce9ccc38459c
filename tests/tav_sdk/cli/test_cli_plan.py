from __future__ import annotations

import dataclasses
import json

import pytest

from tav_sdk.cli.plan import parse_memory, parse_size
from tav_sdk.errors import InputError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12GB", 12 * 10**9),
        ("12 gb", 12 * 10**9),
        ("11.5GiB", 11.5 * 2**30),
        ("800MB", 8 * 10**8),
        ("800M", 8 * 10**8),
        ("1TiB", 2**40),
        ("64kb", 64_000),
        ("123456", 123_456),
        ("5B", 5),
    ],
)
def test_amounts_of_memory(text, number):
    assert parse_memory(text) == number


@pytest.mark.parametrize("text", ["12 parsecs", "", "GB", "-1GB", "0GB", "1e9", "12 GB RAM", "1,5GB", "nan"])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(InputError, match="--memory must be an amount such as 12GB"):
        parse_memory(text)


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), ("512x320", (512, 320)), (" 64 X 96 ", (64, 96))])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["big", "512x", "x512", "512x320x3", "-64", "51.2"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="--size must be pixels, such as 512, or HEIGHTxWIDTH"):
        parse_size(text)


def test_the_table_has_every_stage(tav, tiny_base):
    result = tav("plan", "--base", tiny_base, "--frames", 4, "--size", "64x96", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "4 frames of 64x96 (height x width), bundle in fp32, tuning with mixed precision no" in lines[0]
    assert lines[1].split() == ["stage", "peak", "weights", "activations", "optimizer", "runtime", "of"]
    assert [line.split()[0] for line in lines[2:]] == ["tune", "export", "build", "invert", "sample", "edit"]
    assert all(line.rstrip().endswith("CPU") for line in lines[2:])


def test_a_gpu_is_labelled_as_not_measured(tav, tiny_base):
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cuda", "--precision", "fp16")
    assert result.exit_code == 0, result.stderr
    assert "* not measured" in result.stdout
    assert result.stdout.count("GPU*") == 4


@pytest.fixture
def budget_of(monkeypatch):
    """``budget_of(stage, remedies, ...)``: what every plan says from now on of 12 GB."""
    from tav_sdk.training import plan_memory
    from tav_sdk.training.memory.report import BudgetFit

    def say(stage, *remedies, **fields):
        fit = BudgetFit(memory=12 * 10**9, remedies=remedies, **fields)

        def plan(*args, memory, **kwargs):
            assert memory == fit.memory
            return dataclasses.replace(plan_memory(*args, **kwargs), budget={stage: fit})

        monkeypatch.setattr("tav_sdk.training.plan_memory", plan)

    return say


@pytest.fixture
def remedy():
    from tav_sdk.training.memory.report import Remedy

    return Remedy(changes={"gradient_checkpointing": True}, peak=11_000_000_000, fits=True)


def test_a_budget_that_does_not_do(tav, tiny_base, budget_of, remedy):
    budget_of("tune", remedy, fits=False, max_frames=7, max_size=(448, 320))
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--memory", "12GB")
    assert result.stdout.splitlines()[-3:] == [
        "tune does not fit into 12.00 GB",
        "  at most 7 frames at this size; at most 448x320 at this number of frames",
        "  --gradient-checkpointing: 11.00 GB, which fits",
    ]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"mixed_precision": "bf16"}, "--mixed-precision bf16"),
        ({"parity": False}, "--no-parity"),
        ({"guidance": False, "precision": "fp16"}, "--guidance-scale 1 --precision fp16"),
    ],
)
def test_a_remedy_is_shown_as_the_options_that_make_it(tav, tiny_base, budget_of, remedy, changes, options):
    budget_of("edit", dataclasses.replace(remedy, changes=changes), fits=False, max_frames=7, max_size=(448, 320))
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--memory", "12GB")
    assert result.stdout.splitlines()[-1] == f"  {options}: 11.00 GB, which fits"


def test_what_does_not_fit_either_is_not_offered(tav, tiny_base, budget_of, remedy):
    budget_of("edit", dataclasses.replace(remedy, fits=False), fits=False, max_frames=7, max_size=(448, 320))
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--memory", "12GB")
    assert result.stdout.splitlines()[-1] == "  at most 7 frames at this size; at most 448x320 at this number of frames"


@pytest.mark.parametrize("command", ["plan", "tune"])
def test_tuning_and_its_plan_say_the_same_of_mixed_precision(tav, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert "on a GPU bf16, or fp16 if it has no bf16; no on a CPU" in tav(command, "--help").stdout


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_plan_for_the_gpu_that_is_here_computes_as_tuning_will(tiny_base, monkeypatch, has_bf16, expected):
    import torch

    from tav_sdk.training import plan_memory

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert plan_memory(tiny_base, height=16, width=16, num_frames=1).mixed_precision == expected


def test_a_budget_for_nothing(tav, tiny_base, budget_of):
    budget_of("edit", fits=False, max_frames=0, max_size=None)
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--memory", "12GB")
    assert result.stdout.splitlines()[-2:] == [
        "edit does not fit into 12.00 GB",
        "  not even 1 frame at this size; not even the smallest size at this number of frames",
    ]


def test_a_budget_that_does(tav, tiny_base, budget_of, remedy):
    budget_of("tune", remedy, fits=True, max_frames=30, max_size=(512, 512))
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--memory", "12GB")
    assert "tune fits into 12.00 GB" in result.stdout
    assert "--gradient-checkpointing" not in result.stdout


def test_json_has_the_plan_in_bytes(tav, tiny_base):
    options = ("--gradient-checkpointing", "--no-guidance", "--preset", "original", "--no-temporal")
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--json", *options)
    assert result.exit_code == 0, result.stderr
    planned = json.loads(result.stdout)
    assert [stage["stage"] for stage in planned["stages"]] == ["tune", "export", "build", "invert", "sample", "edit"]
    assert planned["stages"][0]["peak"] > 10**8
    assert planned["gradient_checkpointing"] is True
    assert planned["budget"] == {}


def test_a_note_is_shown(tav, tiny_base):
    result = tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--precision", "bf16")
    assert "ONNX Runtime has no bf16 on the CPU" in result.stdout


def test_int8_is_planned_as_fp32(tav, tiny_base):
    planned = [
        tav("plan", "--base", tiny_base, "--size", 64, "--device", "cpu", "--precision", precision).stdout
        for precision in ("fp32", "int8")
    ]
    assert planned[1].startswith(planned[0].rstrip())
    assert "int8 is planned as fp32" in planned[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp8"), "error: precision must be one of fp32, fp16, bf16, int8; got 'fp8'"),
        (("--size", "65"), "error: height 65 is not a multiple of 16; the nearest valid heights are 64 and 80"),
        (("--size", "huge"), "error: --size must be pixels"),
        (
            ("--memory", "12 parsecs"),
            "error: --memory must be an amount such as 12GB, 11.5GiB or 800MB; got '12 parsecs'",
        ),
        (("--attention", "all"), "error: attention must be one of sparse_causal"),
        (("--device", "abacus"), "error: device must be one of cpu, cuda"),
        (("--base", "nowhere"), "error: there is no base model folder nowhere"),
    ],
)
def test_bad_input(tav, tiny_base, options, message):
    result = tav("plan", "--base", tiny_base, "--size", "64", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
