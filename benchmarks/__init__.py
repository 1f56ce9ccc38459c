"""Benchmarks, run by hand: ``python -m benchmarks.NAME --help``."""

from tav_sdk.export.bench.measure import interleave as interleave
from tav_sdk.export.bench.measure import machine as machine
from tav_sdk.export.bench.measure import progress as progress
from tav_sdk.export.bench.measure import spread as spread
from tav_sdk.export.bench.measure import table as table
from tav_sdk.export.bench.measure import write_json as write_json
