"""Speech: Kokoro's networks, where they come from, and one synthesizer over all of them.

The only part of KVW that touches the internals of the kokoro package.
"""

from kvw.text import import_kokoro

# Before any module here imports it by itself: the package resets the logging of its host.
import_kokoro()
