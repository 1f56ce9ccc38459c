"""The DDIM noise schedule in numpy, equal to diffusers' ``DDIMScheduler`` and ``DDIMInverseScheduler``.

Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), equation 12 with eta 0. One thing is not diffusers': its
inversion by velocity is not the inverse of its sampling, see :meth:`DDIMSchedule.inverse_step`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tav_sdk.errors import ConfigError, InputError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
MAX_TIMESTEPS = 100_000
"""Longest training chain; models have 1000."""


@dataclass(frozen=True, kw_only=True)
class DDIMSchedule:
    """A variance schedule and the deterministic DDIM update on it.

    The fields carry the names and the defaults of diffusers' scheduler configuration, so a ``scheduler_config.json``
    of any diffusers scheduler of the DDPM family (DDIM, PNDM, DDPM, ...) describes one. ``clip_sample`` and
    ``thresholding`` are ignored: latents are not confined to [-1, 1], and Stable Diffusion never clips them.

    Attributes:
        num_train_timesteps: length T of the training chain.
        beta_start: first variance, in (0, 1).
        beta_end: last variance, in (0, 1).
        beta_schedule: how the variances go from the first to the last.
        trained_betas: T explicit variances; overrides the three fields above.
        prediction_type: what the U-Net predicts: the noise, the velocity (Salimans and Ho, 2022) or the sample.
        timestep_spacing: which T' of the T timesteps are visited (Lin et al., 2024, table 2).
        steps_offset: added to every timestep under ``leading``; 1 for Stable Diffusion.
        set_alpha_to_one: whether the level before timestep 0 has alpha product 1, or that of timestep 0.
        rescale_betas_zero_snr: rescale the variances to zero terminal signal-to-noise ratio.

    Raises:
        ConfigError: a field has a value out of its range.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: BetaSchedule = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    alphas_cumprod: np.ndarray = field(init=False, repr=False, compare=False)
    """Cumulative products of ``1 - beta``, ``(T,) float32``, falling from about 1 to about 0."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("beta_schedule", BetaSchedule),
            ("prediction_type", PredictionType),
            ("timestep_spacing", TimestepSpacing),
        ):
            if getattr(self, name) not in get_args(kind):
                expected = ", ".join(get_args(kind))
                raise ConfigError(f"the schedule's {name} must be one of {expected}, got {_short(getattr(self, name))}")
        for name, least, most in (
            ("num_train_timesteps", 1, MAX_TIMESTEPS),
            ("steps_offset", 0, MAX_TIMESTEPS),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
                raise ConfigError(
                    f"the schedule's {name} must be a whole number from {least} to {most}, got {_short(value)}"
                )
        for name in ("beta_start", "beta_end") if self.trained_betas is None else ():
            if not (_is_number(getattr(self, name)) and 0 < getattr(self, name) < 1):
                raise ConfigError(
                    f"the schedule's {name} must be a number between 0 and 1, got {_short(getattr(self, name))}"
                )
        for name in ("set_alpha_to_one", "rescale_betas_zero_snr"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ConfigError(f"the schedule's {name} must be true or false, got {_short(getattr(self, name))}")
        object.__setattr__(self, "alphas_cumprod", self._alphas_cumprod())
        if not np.isfinite(self.alphas_cumprod).all():
            raise ConfigError("the schedule's variances lead to no noise levels; check its configuration")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DDIMSchedule:
        """The schedule that a diffusers ``scheduler_config.json`` describes; keys that DDIM has no use for are ignored.

        Raises:
            ConfigError: a value is out of range, or the configuration is of a flow-matching scheduler.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"a schedule's configuration must hold keys and values, got {_short(config)}")
        class_name = str(config.get("_class_name", ""))[:80]
        if class_name.startswith("Flow"):
            raise ConfigError(
                f"{class_name} is a flow-matching scheduler; DDIM inversion needs a DDPM-family base such as "
                "Stable Diffusion 1.x or 2.x"
            )
        names = [name for name, spec in cls.__dataclass_fields__.items() if spec.init]
        values = {name: config[name] for name in names if name in config}
        if values.get("trained_betas") is not None:
            if not isinstance(values["trained_betas"], list | tuple):
                raise ConfigError(f"trained_betas must be a list, got {_short(values['trained_betas'])}")
            values["trained_betas"] = tuple(values["trained_betas"])
        return cls(**values)

    def to_config(self) -> dict[str, Any]:
        """The fields as a diffusers ``scheduler_config.json`` of class ``DDIMScheduler``."""
        values = {name: getattr(self, name) for name, spec in self.__dataclass_fields__.items() if spec.init}
        values["trained_betas"] = None if self.trained_betas is None else list(self.trained_betas)
        return {"_class_name": "DDIMScheduler", "clip_sample": False, **values}

    # -- levels and timesteps ------------------------------------------------------------------------------------

    @property
    def final_alpha_cumprod(self) -> float:
        """Alpha product of the level before timestep 0, where sampling ends and inversion starts."""
        return 1.0 if self.set_alpha_to_one else float(self.alphas_cumprod[0])

    def alpha_cumprod(self, timestep: int) -> float:
        """Alpha product at ``timestep``; below 0, that of the level before the chain."""
        return float(self.alphas_cumprod[timestep]) if timestep >= 0 else self.final_alpha_cumprod

    def timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The timesteps that sampling visits, ``(num_inference_steps,) int64``, falling.

        Raises:
            InputError: ``num_inference_steps`` is not in [1, T].
        """
        total = self.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise InputError(f"num_inference_steps must be between 1 and {total}, got {num_inference_steps}")
        if self.timestep_spacing == "linspace":
            return np.linspace(0, total - 1, num_inference_steps).round()[::-1].astype(np.int64)
        if self.timestep_spacing == "trailing":
            return np.round(np.arange(total, 0, -total / num_inference_steps)).astype(np.int64) - 1
        timesteps = (np.arange(num_inference_steps) * (total // num_inference_steps))[::-1] + self.steps_offset
        # With T steps and an offset the first one would lie behind the chain's end.
        return np.minimum(timesteps, total - 1).astype(np.int64)

    def inversion_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The timesteps that inversion visits, ``(num_inference_steps,) int64``, rising."""
        return self.timesteps(num_inference_steps)[::-1].copy()

    def timesteps_between(self, first: int, last: int, num_inference_steps: int) -> np.ndarray:
        """``num_inference_steps`` timesteps from ``first`` down to ``last``, as even as integers are, ``int64``.

        For sampling that starts where an inversion with another number of steps ended.

        Raises:
            InputError: there are not that many, or the two are no timesteps.
        """
        if not (0 <= last <= first < self.num_train_timesteps and 1 <= num_inference_steps <= first - last + 1):
            raise InputError(
                f"there are no {num_inference_steps} timesteps from {first} down to {last} in "
                f"[0, {self.num_train_timesteps})"
            )
        return np.linspace(first, last, num_inference_steps).round().astype(np.int64)

    def previous_timestep(self, timestep: int, num_inference_steps: int) -> int:
        """The timestep one step less noisy than ``timestep``; negative before the chain's start."""
        return int(timestep) - self.num_train_timesteps // num_inference_steps

    # -- updates -------------------------------------------------------------------------------------------------

    def step(self, noise_pred: np.ndarray, timestep: int, latents: np.ndarray, num_inference_steps: int) -> np.ndarray:
        """One sampling step (equation 12): ``latents`` from the level of ``timestep`` to the one before it."""
        target = self.previous_timestep(timestep, num_inference_steps)
        return self._move(noise_pred, latents, self.alpha_cumprod(int(timestep)), self.alpha_cumprod(target))

    def inverse_step(
        self, noise_pred: np.ndarray, timestep: int, latents: np.ndarray, num_inference_steps: int
    ) -> np.ndarray:
        """One inversion step: ``latents`` from the level before ``timestep`` to that of ``timestep``.

        ``noise_pred`` is the U-Net's output for the given latents at ``timestep``, the DESTINATION's. For that
        prediction this is the inverse of :meth:`step`. (diffusers takes a velocity for that of the level that the
        latents come from, which the U-Net was not asked for; inverting and sampling then shrinks even latents that a
        perfect model leaves as they are, by 10 % in 25 steps.)

        Raises:
            InputError: a model that predicts velocities goes from no noise to nothing but noise in one step.
        """
        source = self.previous_timestep(timestep, num_inference_steps)
        if self.prediction_type == "v_prediction":
            return self._turn(noise_pred, latents, self.alpha_cumprod(source), self.alpha_cumprod(int(timestep)))
        return self._move(noise_pred, latents, self.alpha_cumprod(source), self.alpha_cumprod(int(timestep)))

    def move(self, noise_pred: np.ndarray, latents: np.ndarray, timestep: int, target: int) -> np.ndarray:
        """A sampling step (equation 12) from the level of ``timestep`` to that of any ``target``; below 0, the last."""
        return self._move(noise_pred, latents, self.alpha_cumprod(int(timestep)), self.alpha_cumprod(int(target)))

    def noise_ahead(self, noise_pred: np.ndarray, latents: np.ndarray, timestep: int, asked: int) -> np.ndarray:
        """The noise in ``latents`` by a prediction that was asked for at a noisier timestep than theirs.

        Args:
            noise_pred: the U-Net's output for ``latents`` at ``asked``, whatever it predicts.
            latents: at the level of ``timestep``; below 0, that before the chain.
            timestep: where they are.
            asked: what the U-Net was told.

        Raises:
            InputError: a model that predicts the sample says nothing about the noise of latents without noise.
        """
        alpha, ahead = self.alpha_cumprod(int(timestep)), self.alpha_cumprod(int(asked))
        if self.prediction_type == "v_prediction":
            there = self._turn(noise_pred, latents, alpha, ahead)
            return math.sqrt(ahead) * noise_pred + math.sqrt(1 - ahead) * there
        if self.prediction_type == "sample":
            _check_noisy(alpha)
            return (latents - math.sqrt(alpha) * noise_pred) / math.sqrt(1 - alpha)
        return noise_pred

    def add_noise(self, latents: np.ndarray, noise: np.ndarray, timestep: int) -> np.ndarray:
        """The forward process: ``latents`` with ``noise`` at the level of ``timestep``, same shape and dtype."""
        alpha = self.alpha_cumprod(int(timestep))
        return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise

    def _turn(self, velocity: np.ndarray, latents: np.ndarray, alpha_from: float, alpha_to: float) -> np.ndarray:
        """Latents at a noisier level, whose velocity there is known."""
        # A sampling step by velocity turns by the angle between the levels: cos * latents - sin * velocity.
        (cos_from, sin_from), (cos_to, sin_to) = (
            (math.sqrt(alpha), math.sqrt(1 - alpha)) for alpha in (alpha_from, alpha_to)
        )
        cos, sin = cos_to * cos_from + sin_to * sin_from, sin_to * cos_from - cos_to * sin_from
        if cos < 1e-6:
            raise InputError(
                "inversion by velocity cannot go from no noise to nothing but noise in one step; take at least 2"
            )
        return (latents + sin * velocity) / cos

    def _move(self, noise_pred: np.ndarray, latents: np.ndarray, alpha_from: float, alpha_to: float) -> np.ndarray:
        root_alpha, root_beta = math.sqrt(alpha_from), math.sqrt(1 - alpha_from)
        if self.prediction_type == "v_prediction":
            pred_original = root_alpha * latents - root_beta * noise_pred
            pred_epsilon = root_alpha * noise_pred + root_beta * latents
        elif self.prediction_type == "sample":
            pred_original = noise_pred
            _check_noisy(alpha_from)
            pred_epsilon = (latents - root_alpha * pred_original) / root_beta
        else:
            if alpha_from == 0.0:
                raise InputError(
                    "a model that predicts the noise says nothing about the sample where there is nothing but noise; "
                    "set rescale_betas_zero_snr to False in the scheduler configuration, or prediction_type right"
                )
            pred_original = (latents - root_beta * noise_pred) / root_alpha
            pred_epsilon = noise_pred
        return math.sqrt(alpha_to) * pred_original + math.sqrt(1 - alpha_to) * pred_epsilon

    def _alphas_cumprod(self) -> np.ndarray:
        # float32 in this order, as the models were trained with.
        alphas = np.float32(1) - self._betas()  # (T,)
        if self.rescale_betas_zero_snr:  # Lin et al. (2024), algorithm 1
            roots = np.sqrt(_cumprod(alphas))
            with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is refused
                roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
                bars = roots**2
                alphas = np.float32(1) - (np.float32(1) - np.concatenate([bars[:1], bars[1:] / bars[:-1]]))
        return _cumprod(alphas)

    def _betas(self) -> np.ndarray:
        total = self.num_train_timesteps
        if self.trained_betas is not None:
            if len(self.trained_betas) != total:
                raise ConfigError(f"trained_betas must have {total} values, got {len(self.trained_betas)}")
            for beta in self.trained_betas:
                if not (_is_number(beta) and 0 <= beta <= 1):
                    raise ConfigError(f"trained_betas must be numbers from 0 to 1, got {_short(beta)}")
            return np.asarray(self.trained_betas, dtype=np.float32)
        if self.beta_schedule == "linear":
            return _linspace(self.beta_start, self.beta_end, total)
        if self.beta_schedule == "scaled_linear":
            return _linspace(self.beta_start**0.5, self.beta_end**0.5, total) ** 2
        levels = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - levels[1:] / levels[:-1], 0.999).astype(np.float32)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _short(value: object) -> str:
    """A value of any kind for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_noisy(alpha: float) -> None:
    if alpha == 1.0:
        raise InputError(
            "a model that predicts the sample says nothing about the noise at alpha product 1; "
            "set set_alpha_to_one to False in the scheduler configuration"
        )


def _linspace(start: float, end: float, count: int) -> np.ndarray:
    """``torch.linspace`` in float32, to the bit: from both ends to the middle, each value rounded once."""
    first, last = np.float32(start), np.float32(end)
    step = float((last - first) / np.float32(max(count - 1, 1)))
    index = np.arange(count)
    rising, falling = np.float64(first) + step * index, np.float64(last) - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _cumprod(values: np.ndarray) -> np.ndarray:
    """``torch.cumprod`` of float32, to the bit: accumulated in float64."""
    return np.cumprod(values, dtype=np.float64).astype(np.float32)
