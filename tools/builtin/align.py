"""Labels speech with words and phone times, as data/alignments_speech_train.json.gz was made.

    python tools/builtin/align.py --speech FOLDER --out alignments.json.gz

pocketsphinx first recognises each clip, then aligns its phones to the words it has found: it needs
no transcripts, and what it mishears is in the labels. Reads the .flac files in the folder and
below it, at 16 kHz.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pocketsphinx import Decoder, get_model_path

from kvw.files import replacing

_RATE_HZ = 16_000


class Aligner:
    """Recognises and aligns with pocketsphinx's US English models."""

    def __init__(self) -> None:
        models = Path(get_model_path()) / "en-us"
        common = {
            "hmm": str(models / "en-us"),
            "dict": str(models / "cmudict-en-us.dict"),
            "loglevel": "FATAL",
        }
        self._recogniser = Decoder(lm=str(models / "en-us.lm.bin"), **common)
        self._aligner = Decoder(lm=None, bestpath=True, **common)

    def label(self, path: Path) -> dict[str, Any]:
        """The clip's "file", "text", and "phones": symbol, start and length in units of 10 ms.

        Raises:
            RuntimeError: no words were heard, or they cannot be aligned.
        """
        audio, rate_hz = soundfile.read(path, dtype="float32")
        if rate_hz != _RATE_HZ:
            raise SystemExit(f"Expected speech at {_RATE_HZ} Hz, got {rate_hz} Hz in {path}")
        samples = (audio * 32767).astype(np.int16).tobytes()
        # They adapt to the channel: a clip's labels must not depend on the clips before.
        self._recogniser.reinit_feat()
        self._aligner.reinit_feat()
        self._run(self._recogniser, samples)
        # Silences and noises stand in brackets; a word's further pronunciations are word(2).
        words = [segment.word for segment in self._recogniser.seg() or []]
        text = " ".join(word.split("(")[0] for word in words if word[0] not in "<[")
        aligner = self._aligner
        aligner.set_align_text(text)
        self._run(aligner, samples)  # words
        aligner.set_alignment()
        self._run(aligner, samples)  # the words' phones
        phones = [
            [phone.name, phone.start, phone.duration]
            for word in aligner.get_alignment()
            for phone in word
        ]
        return {"file": path.name, "text": text, "phones": phones}

    @staticmethod
    def _run(decoder: Decoder, samples: bytes) -> None:
        decoder.start_utt()
        decoder.process_raw(samples, full_utt=True)
        decoder.end_utt()


def main() -> None:
    """Reads the flags, labels the clips, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, required=True, help="folder with .flac files")
    parser.add_argument("--out", type=Path, required=True, help="label file (.json.gz)")
    parser.add_argument("--limit", type=int, help="at most so many clips: a trial")
    arguments = parser.parse_args()

    aligner = Aligner()
    labels = []
    for path in sorted(arguments.speech.rglob("*.flac"))[: arguments.limit]:
        try:
            labels.append(aligner.label(path))
        except RuntimeError as error:
            print(f"left out {path.name}: {error}", file=sys.stderr)
    with replacing(arguments.out) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as out:
        json.dump(labels, out, ensure_ascii=False)
    print(f"{len(labels)} clips")


if __name__ == "__main__":
    main()
