"""What can go wrong through no fault of the code.

Every message is one sentence for the person at the keyboard: what was expected, what came, what to
do. The library raises; only the command line prints and turns a `KvwError` into exit code 2.
"""


class KvwError(Exception):
    """Base of all errors that KVW raises on purpose."""


class AudioError(KvwError):
    """A recording cannot be read, or is not usable as a target."""


class VoiceError(KvwError):
    """A voice file, a voice name or a blend is not what it should be."""


class TextError(KvwError):
    """A text cannot be read or spoken."""


class ModelError(KvwError):
    """A model cannot be found or loaded, or does not fit the voice it is given."""


class SettingsError(KvwError):
    """A flag or a setting is out of its range, unknown, or in conflict with another."""


class RunError(KvwError):
    """A run folder is missing, damaged, in use, or does not fit what is asked of it."""
