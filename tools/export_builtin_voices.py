"""Writes the built-in model's stock voices as files: voices/builtin/*.pt with their provenance.

Usage: uv run tools/export_builtin_voices.py [FOLDER]
"""

import sys
from pathlib import Path

from kvw import voice
from kvw.synth import models


def main() -> None:
    """Writes every stock voice of the shipped model."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("voices/builtin")
    voices = models.load(models.BUILTIN).voices()
    for one in voices:
        voice.save(one, folder / f"{one.name}.pt")
    print(f"{len(voices)} voices in {folder}")


if __name__ == "__main__":
    main()
