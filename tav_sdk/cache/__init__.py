"""Caches on disk: what is costly to make, kept under the hash of what it was made from; see :mod:`.store`."""

from tav_sdk.cache.entry import CacheEntry as CacheEntry
from tav_sdk.cache.entry import CacheProblem as CacheProblem
from tav_sdk.cache.entry import cache_key as cache_key
from tav_sdk.cache.limits import LIMITS as LIMITS
from tav_sdk.cache.limits import cache_root as cache_root
from tav_sdk.cache.limits import size_limit as size_limit
from tav_sdk.cache.store import Cache as Cache
