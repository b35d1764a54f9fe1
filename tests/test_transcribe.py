"""Transcription, with a stand-in for faster-whisper, whose weights need a hub."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from kvw import engine, transcribe
from kvw.cloning import Observer
from kvw.errors import TextError
from kvw.settings import Settings


class Heard(Observer):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


@pytest.fixture
def whisper(monkeypatch):
    """A faster_whisper whose model hears the name of the file, and notes how it was made."""
    made: list[str] = []

    class WhisperModel:
        def __init__(self, name: str, device: str, compute_type: str) -> None:
            made.append(name)

        def transcribe(self, path: str) -> tuple[list[SimpleNamespace], None]:
            words = Path(path).stem.replace("_", " ")
            if words == "silence":
                return [], None
            return [SimpleNamespace(text=" I hear"), SimpleNamespace(text=f" {words}. ")], None

    module = ModuleType("faster_whisper")
    module.__spec__ = importlib.machinery.ModuleSpec("faster_whisper", None)
    module.WhisperModel = WhisperModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    return made


@pytest.fixture
def recordings(tmp_path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("good_morning.wav", "good_night.flac", "notes.md"):
        (folder / name).touch()
    return folder


def test_every_recording_of_a_folder_gets_its_text_once(whisper, recordings):
    (recordings / "good_night.txt").write_text("Mine.")
    heard = Heard()
    written = engine.transcribe_many(recordings, "a", heard)
    assert written == [recordings / "good_morning.txt"]
    assert written[0].read_text() == "I hear good morning.\n"
    assert (recordings / "good_night.txt").read_text() == "Mine."  # nobody's text is replaced
    assert whisper == [transcribe.MODEL]
    assert any("left as it is" in notice for notice in heard.notices)


def test_one_recording_is_transcribed_in_its_language(whisper, recordings):
    engine.transcribe_many(recordings / "good_night.flac", "f", Heard())
    assert (recordings / "good_night.txt").read_text() == "I hear good night.\n"
    assert whisper == [transcribe.MULTILINGUAL_MODEL]


def test_a_folder_without_recordings_is_an_error(whisper, tmp_path):
    with pytest.raises(TextError, match="found none"):
        engine.transcribe_many(tmp_path, "a", Heard())


def test_silence_is_an_error(whisper):
    with pytest.raises(TextError, match="no word was recognised"):
        transcribe.Transcriber().transcribe(Path("silence.wav"))


def target_text(recording: Path, **changes: object) -> tuple[str, list[str]]:
    heard = Heard()
    settings = Settings.create({"target_audio": recording}, changes)
    return engine._target_text(settings, heard), heard.notices


def test_the_target_text_is_the_given_one_then_the_one_beside_then_a_transcription(
    whisper, recordings
):
    recording = recordings / "good_morning.wav"
    assert target_text(recording, target_text="Given.")[0] == "Given."
    text, notices = target_text(recording)
    assert text == "I hear good morning."
    assert any("Transcribed" in notice for notice in notices)
    recording.with_suffix(".txt").write_text("Beside.")
    assert target_text(recording)[0] == "Beside."
    # Asked for, the transcription wins over both, and replaces neither.
    text, _ = target_text(recording, transcribe_start=True, target_text="Given.")
    assert text == "I hear good morning."
    assert recording.with_suffix(".txt").read_text() == "Beside."


def test_transcribe_start_writes_the_text_beside_the_recording(whisper, recordings):
    recording = recordings / "good_morning.wav"
    target_text(recording, transcribe_start=True)
    assert recording.with_suffix(".txt").read_text() == "I hear good morning.\n"


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, recordings):
    monkeypatch.setattr(transcribe, "is_available", lambda: False)
    with pytest.raises(TextError, match="--extra transcription"):
        target_text(recordings / "good_morning.wav", transcribe_start=True)
    text, notices = target_text(recordings / "good_morning.wav")
    assert "lighthouse" in text
    assert any("default text" in notice for notice in notices)


def test_weights_that_cannot_be_had_are_one_sentence(whisper, monkeypatch, recordings):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(sys.modules["faster_whisper"].WhisperModel, "__init__", fail)
    with pytest.raises(TextError, match="neither on this machine") as caught:
        transcribe.Transcriber()
    assert "\n" not in str(caught.value)
    # Where nobody asked for a transcription, the default text takes over.
    text, notices = target_text(recordings / "good_morning.wav")
    assert "lighthouse" in text
    assert len(notices) == 2
