"""Benchmarks, run by hand: ``python -m benchmarks.NAME --help``."""

from tav_sdk.measure import interleave as interleave
from tav_sdk.measure import machine as machine
from tav_sdk.measure import progress as progress
from tav_sdk.measure import spread as spread
from tav_sdk.measure import table as table
from tav_sdk.measure import write_json as write_json
