import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import CheckpointError, ConfigError, InputError, NonFiniteLossError, OutputError, SizeError
from tav_sdk.files import sha256_of
from tav_sdk.training import InflationOptions, PretrainedBase, inflate, load_run, trainable_parameters, tune
from tav_sdk.training.checkpoint import load_tuned_weights, save_tuned_weights
from tav_sdk.training.encode import ClipLatents
from tav_sdk.training.tune_step import Tuner


def stop_after(step):
    def callback(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return callback


def tuned_of(run):
    return load_file(run.tuned_path)


def hidden(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_records_what_decided_it(config, tiny_base):
    run = tune(config)
    record = json.loads((run.folder / "run.json").read_text())
    assert record["prompt"] == "a red square is moving"
    assert record["base"]["sha256"] == PretrainedBase(tiny_base).sha256
    assert record["config"]["inflation"]["temporal_mask"] == "causal"
    assert record["schedule"]["steps_offset"] == 1
    # The CUDA build calls its module "2.13.0+cu130" and its package "2.13.0".
    assert record["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert run.config == config
    assert hidden(run.folder) == ["log.jsonl", "run.json", "snapshots", "tuned.safetensors"]
    assert hidden(run.folder / "snapshots") == ["step-000002.safetensors", "step-000004.safetensors"]
    assert [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_every_tuned_tensor_moves_and_nothing_else_is_saved(config, tiny_base):
    fresh = inflate(PretrainedBase(tiny_base).load_unet(), config.inflation, config.num_frames, seed=config.seed)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    tuned = tuned_of(tune(config))
    assert list(tuned) == sorted(tuned)
    assert all(name.rsplit(".to_", 1)[0].endswith(("attn1", "attn2", "attn_temp")) for name in tuned)
    assert [name for name, tensor in tuned.items() if torch.equal(tensor, before[name])] == []


def test_the_same_seed_gives_the_same_tuned_weights(config, tmp_path):
    first, second, other = (
        tuned_of(tune(config.replace(out=str(tmp_path / name), seed=seed)))
        for name, seed in (("a", 33), ("b", 33), ("c", 34))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_tuning_lowers_the_loss_at_fixed_noise(config, tiny_base):
    latents = ClipLatents(torch.randn(1, 4, 4, 4, 4), torch.zeros(1, 4, 4, 4, 4))
    model = inflate(PretrainedBase(tiny_base).load_unet(), config.inflation, 4)
    width = model.config["cross_attention_dim"]
    states = torch.randn(1, 77, width)
    tuner = Tuner(model, latents, states, PretrainedBase(tiny_base).schedule, config, torch.device("cpu"))
    draw = tuner.draw(0)
    tuner.draw = lambda step: draw
    losses = [tuner.step()["loss"] for _ in range(30)]
    assert losses[-1] < 0.98 * losses[0]


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(config, tmp_path):
    whole = tuned_of(tune(config))
    interrupted = config.replace(out=str(tmp_path / "interrupted"))
    with pytest.raises(KeyboardInterrupt):
        tune(interrupted, callback=stop_after(3))
    assert hidden(tmp_path) == [".interrupted.partial", "run"]
    resumed = tune(interrupted, resume=True)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tuned_of(resumed).items())
    assert hidden(tmp_path) == ["interrupted", "run"]
    assert len((resumed.folder / "log.jsonl").read_text().splitlines()) == 5


def test_resuming_with_other_settings_is_refused(config):
    with pytest.raises(KeyboardInterrupt):
        tune(config, callback=stop_after(2))
    with pytest.raises(ConfigError, match=r"learning_rate \(was 0.001, is 0.01\); start anew with overwrite"):
        tune(config.replace(learning_rate=0.01), resume=True)


def test_resuming_a_finished_run_gives_it_back(config):
    first = tune(config)
    assert tune(config, resume=True).record == first.record


def test_resuming_a_finished_run_to_more_steps_is_refused(config):
    tune(config)
    with pytest.raises(InputError, match="is finished with 5 steps and cannot be resumed to 9"):
        tune(config.replace(num_train_steps=9), resume=True)


def test_resuming_a_finished_run_with_other_settings_is_refused(config):
    tune(config)
    with pytest.raises(ConfigError, match=r"is finished, with other settings \(learning_rate\); tune anew"):
        tune(config.replace(learning_rate=0.01), resume=True)


def test_an_unfinished_run_is_not_thrown_away_unasked(config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(config, callback=stop_after(2))
    with pytest.raises(OutputError, match=r"is there; continue it with resume, or start anew with overwrite"):
        tune(config)
    assert tune(config, overwrite=True).config == config
    assert hidden(tmp_path) == ["run"]


def test_a_device_that_is_not_there_is_refused(config):
    with pytest.raises(ConfigError, match=r"the device 'nonsense' cannot be used here: .*; leave device out"):
        tune(config, device="nonsense")


def test_the_delta_can_be_read_by_whoever_may_read_the_record(config):
    run = tune(config)
    assert run.tuned_path.stat().st_mode == (run.folder / "run.json").stat().st_mode


def test_resuming_without_an_unfinished_run_starts_one(config):
    assert tune(config, resume=True).record["config"]["num_train_steps"] == 5


def test_an_interrupt_before_the_first_step_leaves_nothing(config, tmp_path, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tuner, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune(config)
    assert hidden(tmp_path) == []


def test_a_nan_in_the_loss_stops_with_the_step_and_what_to_try(config, tmp_path, monkeypatch):
    draw = Tuner.draw

    def poisoned(self, step):
        noisy, target, timestep = draw(self, step)
        return noisy, target * float("nan") if step == 3 else target, timestep

    monkeypatch.setattr(Tuner, "draw", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 4; try a lower learning_rate \(now 0.001\)"):
        tune(config)
    assert not (tmp_path / "run").exists()


def test_a_callback_can_stop_it(config, tmp_path):
    from tav_sdk.errors import CancelledError

    with pytest.raises(CancelledError, match="tune was cancelled after step 1 of 5"):
        tune(config, callback=lambda progress: False)
    assert not (tmp_path / "run").exists()


def test_checkpointing_changes_memory_not_the_result(config, tmp_path):
    plain = tuned_of(tune(config))
    saving = tuned_of(tune(config.replace(out=str(tmp_path / "saving"), gradient_checkpointing=True)))
    for name in plain:
        torch.testing.assert_close(saving[name], plain[name], atol=1e-6, rtol=1e-5)


def test_bf16_keeps_tuned_weights_in_float32(config):
    tuned = tuned_of(tune(config.replace(mixed_precision="bf16")))
    assert {tensor.dtype for tensor in tuned.values()} == {torch.float32}


def test_fp16_on_a_cpu_is_refused(config):
    with pytest.raises(ConfigError, match="fp16 tuning needs a GPU; on a CPU choose mixed_precision no or bf16"):
        tune(config.replace(mixed_precision="fp16"), device="cpu")


def test_the_target_of_a_v_prediction_base_is_the_velocity(config, tiny_base):
    latents = ClipLatents(torch.randn(1, 4, 4, 4, 4), torch.zeros(1, 4, 4, 4, 4))
    schedule = DDIMSchedule(prediction_type="v_prediction")
    model = inflate(PretrainedBase(tiny_base).load_unet(), config.inflation, 4)
    tuner = Tuner(model, latents, torch.zeros(1, 77, 1), schedule, config, torch.device("cpu"))
    noisy, target, timestep = tuner.draw(0)
    alpha = float(schedule.alphas_cumprod[int(timestep)])
    # With v = sqrt(alpha) noise - sqrt(1 - alpha) latents: latents = sqrt(alpha) noisy - sqrt(1 - alpha) v.
    torch.testing.assert_close(alpha**0.5 * noisy - (1 - alpha) ** 0.5 * target, latents.mean, atol=1e-5, rtol=1e-4)


def test_a_size_that_the_base_cannot_take_is_refused(config):
    with pytest.raises(SizeError, match="33"):
        tune(config.replace(height=33))


def test_a_folder_that_is_not_empty_is_refused(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty; choose another folder, or set overwrite to replace"):
        tune(config)
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"


def test_overwriting_replaces_a_run(config):
    tune(config)
    run = tune(config.replace(num_train_steps=1), overwrite=True)
    assert run.config.num_train_steps == 1


def test_changed_tuned_weights_are_refused(config):
    run = tune(config)
    data = bytearray(run.tuned_path.read_bytes())
    data[-1] ^= 1
    run.tuned_path.write_bytes(data)
    with pytest.raises(CheckpointError, match="was changed: expected sha256"):
        load_run(run.folder)


def test_tuned_weights_of_another_model_are_refused(config, tiny_run, tiny_base):
    unet = PretrainedBase(tiny_base).load_unet()
    from tav_sdk.training import InflationOptions

    model = inflate(unet, InflationOptions(temporal=False), 4)
    with pytest.raises(CheckpointError, match=r"does not fit the model \(\d+ differences\):\n  unexpected"):
        load_tuned_weights(model, load_run(tiny_run).tuned_path)


def test_a_run_at_an_earlier_step_is_that_of_fewer_steps(config, tmp_path):
    run = tune(config)
    assert run.steps == (2, 4, 5)
    assert run.at(5) is run
    fewer = tune(config.replace(num_train_steps=2, out=tmp_path / "fewer"))
    assert run.at(2).tuned_path == run.folder / "snapshots" / "step-000002.safetensors"
    assert run.at(2).record["tuned_sha256"] == sha256_of(run.at(2).tuned_path) != run.record["tuned_sha256"]
    assert run.at(2).config.num_train_steps == 2
    for name, tensor in tuned_of(run.at(2)).items():
        assert torch.equal(tensor, tuned_of(fewer)[name])


def test_a_step_without_a_snapshot_is_refused_with_those_there_are(config):
    run = tune(config)
    text = r"has no snapshot of step 3: it has snapshots of the steps 2, 4 and the last, 5; tune again with checkpoint"
    with pytest.raises(CheckpointError, match=text):
        run.at(3)


def test_a_run_without_snapshots_says_so(tiny_run):
    run = load_run(tiny_run)
    assert run.steps == (2,)
    with pytest.raises(CheckpointError, match="has no snapshot of step 1: it has only the last step, 2; tune again"):
        run.at(1)


def test_an_unfinished_run_says_how_to_go_on(config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(config, callback=stop_after(2))
    with pytest.raises(CheckpointError, match="was started but not finished: tune again with resume"):
        load_run(tmp_path / "run")


def test_a_damaged_record_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run.json is not valid JSON: .*; tune again"):
        load_run(tmp_path / "copy")


def test_a_run_of_format_1_still_loads(config, tmp_path):
    made = tune(config)
    old = tmp_path / "old"
    shutil.copytree(made.folder, old)
    (old / "tuned.safetensors").rename(old / "delta.safetensors")
    record = json.loads((old / "run.json").read_text())
    record |= {"format_version": 1, "delta_sha256": record.pop("tuned_sha256")}
    (old / "run.json").write_text(json.dumps(record))
    run = load_run(old)
    assert run.tuned_path == old / "delta.safetensors"
    assert run.record["tuned_sha256"] == made.record["tuned_sha256"]
    assert run.at(2).record["tuned_sha256"] == made.at(2).record["tuned_sha256"]
    assert tune(config.replace(out=str(old)), resume=True).tuned_path == run.tuned_path
    (old / "delta.safetensors").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"delta.safetensors was changed"):
        load_run(old)


def test_a_full_disk_is_an_output_error(config, monkeypatch):
    from safetensors import SafetensorError

    from tav_sdk.training import checkpoint

    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left on device"):
        tune(config)


def test_tuned_weights_that_are_not_finite_are_refused(tiny_base, tmp_path):
    model = inflate(PretrainedBase(tiny_base).load_unet(), InflationOptions(), 2)
    name, parameter = next(iter(trainable_parameters(model).items()))
    parameter.data.view(-1)[3] = float("inf")
    save_tuned_weights(model, tmp_path / "tuned.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name} in .* has NaN or infinity in it; tune again, with a lower"):
        load_tuned_weights(model, tmp_path / "tuned.safetensors")
