"""Makes target.wav from target.txt with flite's voice awb: a recording to try KVW with.

Needs flite (`apt-get install flite`). Run from anywhere: `python example/make_target.py`.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

from kvw import audio

VOICE = "awb"
SILENCE_S = 0.25
"""flite's speech runs up to the edges of its file; a recording has a pause there."""

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Speaks, resamples to KVW's rate, adds a little silence, saves."""
    if shutil.which("flite") is None:
        sys.exit("flite is not installed; on Debian and Ubuntu: apt-get install flite")
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "spoken.wav"
        subprocess.run(
            ["flite", "-voice", VOICE, "-f", FOLDER / "target.txt", "-o", spoken], check=True
        )
        samples, rate_hz = soundfile.read(spoken, dtype="float32")
    samples = soxr.resample(samples, rate_hz, audio.SAMPLE_RATE_HZ, quality="VHQ")
    silence = np.zeros(round(SILENCE_S * audio.SAMPLE_RATE_HZ), dtype=np.float32)
    path = FOLDER / "target.wav"
    audio.save(path, np.concatenate([silence, samples, silence]))
    print(f"{path}: {audio.load(path).duration_s:.1f} s")


if __name__ == "__main__":
    main()
