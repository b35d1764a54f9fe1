"""What is said in a recording, by Whisper.

Needs the extra `kvw[transcription]` and, the first time, the hub for the weights. Knows
faster-whisper; knows nothing of voices.
"""

import importlib.util
from pathlib import Path

from kvw.errors import TextError

# The English base model: a tenth of a second per second of speech on a laptop, and a few words in
# a hundred wrong on clean speech.
MODEL = "base.en"
MULTILINGUAL_MODEL = "base"


def is_available() -> bool:
    """Whether the extra is installed; the weights may still have to be downloaded."""
    return importlib.util.find_spec("faster_whisper") is not None


class Transcriber:
    """Whisper, loaded once.

    Raises:
        TextError: the extra is missing, or the weights are not to be had.
    """

    def __init__(self, english: bool = True, model: str | None = None):
        if not is_available():
            raise TextError(
                "Expected the transcription extra, which is not installed; install it "
                '(uv sync --extra transcription, or pip install "kvw[transcription]") '
                "or pass --target_text"
            )
        from faster_whisper import WhisperModel

        name = model or (MODEL if english else MULTILINGUAL_MODEL)
        try:
            self._model = WhisperModel(name, device="auto", compute_type="default")
        except (OSError, RuntimeError, ValueError) as error:
            raise TextError(
                f"Whisper's weights ({name}) are neither on this machine nor to be downloaded: "
                f"{str(error).partition(chr(10))[0]}; pass --target_text instead"
            ) from error

    def transcribe(self, path: Path) -> str:
        """The words of a recording, as one line.

        Raises:
            TextError: nothing was recognised.
        """
        segments, _ = self._model.transcribe(str(path))
        text = " ".join(segment.text.strip() for segment in segments).strip()
        if not text:
            raise TextError(f"Expected speech in {path}, and no word was recognised")
        return text


def save_beside(path: Path, text: str) -> Path | None:
    """Writes the text beside its recording as .txt; None where there is one already."""
    beside = path.with_suffix(".txt")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        return None
    return beside
