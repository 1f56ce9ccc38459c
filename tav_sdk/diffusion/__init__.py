"""Schedules and loops of diffusion in numpy: no graph, no engine, no file."""

from tav_sdk.diffusion.inversion import Inversion as Inversion
from tav_sdk.diffusion.inversion import ddim_invert as ddim_invert
from tav_sdk.diffusion.inversion import direct_offsets as direct_offsets
from tav_sdk.diffusion.inversion import multistep_invert as multistep_invert
from tav_sdk.diffusion.sampling import ddim_sample as ddim_sample
from tav_sdk.diffusion.sampling import draw_noise as draw_noise
from tav_sdk.diffusion.schedule import DDIMSchedule as DDIMSchedule
