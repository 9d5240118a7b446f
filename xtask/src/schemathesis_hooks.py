"""What Schemathesis must be told to make a request: the format of the API's description that only a clock can follow."""

import time
import uuid

import schemathesis
from hypothesis import strategies


def recent(random_bits):
    """A UUIDv7 (RFC 9562 5.7) of now."""
    ms = time.time_ns() // 1_000_000
    value = ms << 80 | 7 << 76 | (random_bits >> 62 & 0xFFF) << 64 | 2 << 62 | random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))


keys = strategies.integers(min_value=0, max_value=(1 << 74) - 1).map(recent)
schemathesis.openapi.format("recent-uuidv7", strategies.one_of(keys, keys.map(lambda key: f'"{key}"')))
