"""KVW makes new voices for Kokoro from a recording of a speaker."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("kvw")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
