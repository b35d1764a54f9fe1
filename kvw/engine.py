"""What KVW does for a user, from settings to files; the command line is a thin layer over it.

Composes recordings, texts, models and voices into parts, and gives them to the phases. Knows all
modules below it; knows nothing of flags and terminals.
"""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from kvw import __version__, audio, text, transcribe, voice
from kvw.cloning import Cloning, Observer, Parts, Result
from kvw.errors import ModelError, RunError, SettingsError, TextError, VoiceError
from kvw.run import Run
from kvw.score import Scorer, Weights
from kvw.search import Clock
from kvw.settings import RESUMABLE, Settings
from kvw.speaker import SpeakerEncoder
from kvw.synth import models
from kvw.synth.synthesizer import Synthesizer
from kvw.text import Phonemes, Phonemizer
from kvw.voice import Voice

OUT = Path("out")
# Parameters below which a network is too small for two threads; Kokoro-82M has 82 million.
_SMALL_NETWORK = 20_000_000
_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".m4a", ".webm", ".opus", ".aac"}


def make_voice(settings: Settings, observer: Observer | None = None, out: Path = OUT) -> Result:
    """The main job: from a recording to a voice, in a new run below `out`.

    A KeyboardInterrupt while it searches ends it early, with the best voice so far.

    Raises:
        KvwError: what the user gave cannot be used; no run is left behind.
    """
    observer = observer or Observer()
    clock = Clock()
    if settings.target_audio is None:
        raise SettingsError("Expected a recording of the speaker: pass --target_audio FILE")
    if settings.starting_voice is not None and settings.interpolate_start:
        raise SettingsError(
            "Expected one start: --interpolate_start searches for it, --starting_voice names it"
        )
    device = pick_device(settings.device)
    recording = audio.load(settings.target_audio)
    phonemizer = Phonemizer(settings.lang_code)
    target = phonemizer.phonemize(_target_text(settings, observer))
    other = phonemizer.phonemize(
        text.read_text(settings.other_text, "--other_text")
        if settings.other_text is not None
        else text.DEFAULT_OTHER_TEXT
    )
    model = _load(settings.model, device, observer)
    stock = models.stock_voices(model, settings.voice_folder)
    if len(stock) < 2:
        raise VoiceError(
            "Expected at least two stock voices, whose differences are the directions of the "
            f"search, and got {len(stock)}; use another --voice_folder"
        )
    given = None
    if settings.starting_voice is not None:
        [given] = models.owned(
            [models.find_voice(settings.starting_voice, lambda: stock)], model.id
        )
    encoder = SpeakerEncoder(device)
    for warning in (*recording.warnings, *encoder.inspect(recording.audio)):
        observer.notice(warning)

    name = voice.safe_name(settings.output_name or settings.target_audio.stem)
    with Run.create(out, name, settings.to_dict()) as run:
        audio.save(run.folder / "target.wav", recording.audio)
        if given is not None:  # a run must not depend on a file that may change
            voice.save(given, run.folder / "start.pt")
        run.set_facts(
            {
                "kvw": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "device": device,
                "model": {"id": model.id, "sha256": model.sha256},
                "target": {
                    "path": str(settings.target_audio),
                    "duration_s": round(recording.duration_s, 3),
                    "warnings": list(recording.warnings),
                },
                "texts": {"target": target.to_dict(), "other": other.to_dict()},
                "stock": {"names": [v.name for v in stock], "sha256": _fingerprint(stock)},
                "starting_voice": None if given is None else given.name,
            }
        )
        parts = _parts(settings, run, encoder, model, stock, given)
        return Cloning(parts, run, clock, observer).work()


def resume_voice(
    folder: Path, changes: Mapping[str, Any], observer: Observer | None = None
) -> Result:
    """Goes on with a run as if it had not been interrupted.

    Args:
        folder: of the run.
        changes: settings to change, of those that do not decide which candidates come next.
        observer: is told what happens.

    Raises:
        KvwError: the run cannot be resumed; it is as it was.
    """
    observer = observer or Observer()
    with Run.open(folder) as run:
        if not run.facts:
            raise RunError(f"Expected a run that had begun, and {folder} had not; start a new run")
        before, settings = Settings.create(run.settings), Settings.create(run.settings, changes)
        for name in Settings.model_fields:
            if name not in RESUMABLE and getattr(settings, name) != getattr(before, name):
                raise SettingsError(
                    f"A resumed run keeps its settings, and --{name} would change one; only "
                    f"{', '.join(sorted(RESUMABLE))} may change; start a new run instead"
                )
        clock = Clock(run.elapsed_s)
        device = pick_device(settings.device)
        facts = run.facts
        model = _load(_source(facts["model"]["id"], settings.model), device, observer)
        if model.sha256 != facts["model"]["sha256"]:
            raise ModelError(
                f"Expected the weights that {folder} was started with ({facts['model']['id']}), "
                "and they are others now; restore them, or start a new run"
            )
        stock = models.stock_voices(model, settings.voice_folder)
        if _fingerprint(stock) != facts["stock"]["sha256"]:
            raise RunError(
                f"Expected the stock voices that {folder} was started with, and they are others "
                "now; restore them, or start a new run"
            )
        given = voice.load(run.folder / "start.pt") if facts["starting_voice"] else None
        run.set_settings(settings.to_dict())
        parts = _parts(settings, run, SpeakerEncoder(device), model, stock, given)
        return Cloning(parts, run, clock, observer).work()


def _parts(
    settings: Settings,
    run: Run,
    encoder: SpeakerEncoder,
    model: models.Model,
    stock: Sequence[Voice],
    given: Voice | None,
) -> Parts:
    """The parts of a run, from its own copies of target and phonemes.

    A new run reads them back too, so that a resumed one compares with the very same samples.
    """
    synthesizer = Synthesizer(model.network)
    texts = run.facts["texts"]
    utterances = [
        synthesizer.prepare(Phonemes.from_dict(texts[which])) for which in ("target", "other")
    ]
    target = audio.load(run.folder / "target.wav").audio
    scorer = Scorer(target, encoder, Weights(*settings.weights))
    return Parts(settings, model.id, stock, given, synthesizer, utterances, scorer)


@dataclass(frozen=True)
class Spoken:
    """A voice that was auditioned: where its audio is, how long it is, which model spoke."""

    path: Path
    duration_s: float
    model_id: str
    g2p: str


def speak(settings: Settings, test_voice: str, observer: Observer | None = None) -> Spoken:
    """Speaks `target_text` with a voice and writes `output_name`, or out.wav.

    The voice's provenance says which model it belongs to; a voice without one is spoken by the
    model that the settings ask for.

    Raises:
        KvwError: no such voice, or it belongs to another model.
    """
    observer = observer or Observer()
    words = text.DEFAULT_TARGET_TEXT
    if settings.target_text is None:
        observer.notice("No --target_text given: speaking a default sentence.")
    else:
        words = text.read_text(settings.target_text, "--target_text")
    device = pick_device(settings.device)
    phonemes = Phonemizer(settings.lang_code).phonemize(words)
    asked: list[models.Model] = []  # loaded only where the voice is or blends a stock voice

    def stock() -> Sequence[Voice]:
        if not asked:
            asked.append(_load(settings.model, device, observer))
        return models.stock_voices(asked[0], settings.voice_folder)

    found = models.find_voice(test_voice, stock)
    model = asked[0] if asked else _model_of(found, settings.model, device, observer)
    synthesizer = Synthesizer(model.network)
    utterance = synthesizer.prepare(phonemes)
    [waveform] = synthesizer.speak(found.tensor[None], utterance, settings.seed)
    path = Path(settings.output_name or "out")
    path = path if path.suffix.lower() == ".wav" else path.with_name(f"{path.name}.wav")
    audio.save(path, waveform)
    return Spoken(path, len(waveform) / audio.SAMPLE_RATE_HZ, model.id, phonemes.g2p)


def _model_of(found: Voice, asked: str, device: str, observer: Observer) -> models.Model:
    """The model that a voice file says it belongs to; where it says none, the one asked for."""
    if found.model is None and asked != "auto":
        return _load(asked, device, observer)
    if found.model is None:
        try:
            return _load("kokoro", device, observer)
        except ModelError as error:
            raise ModelError(
                f"{found.name} does not say which model it belongs to, most likely Kokoro-82M, "
                "which is not at hand; pass --model builtin if it was made with the built-in "
                "model, or --model FOLDER with Kokoro's files"
            ) from error
    model = _load(_source(found.model, asked), device, observer)
    if model.id != found.model:
        raise ModelError(
            f"{found.name} belongs to the model {found.model} and would speak rubbish with "
            f"{model.id}; pass the --model that it was made with, or leave --model out"
        )
    return model


def _load(name: str, device: str, observer: Observer) -> models.Model:
    """The model; a small one makes this process compute on one thread.

    A small network's parallel regions take microseconds. Two threads on two cores gain it little,
    and once anything else runs on the machine each region waits for a slice of the scheduler: then
    one short sentence takes the built-in model seconds. OMP_NUM_THREADS has the last word.
    """
    model = models.load(name, device, observer.notice)
    is_small = models.n_parameters(model.network) < _SMALL_NETWORK
    if device == "cpu" and is_small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
        threadpool_limits(1, user_api="blas")  # numpy's matrix products, in the features and mels
    return model


def _source(model_id: str, asked: str) -> str:
    """What to load for a model's id where the settings say `asked`."""
    known = {models.BUILTIN: "builtin", models.KOKORO: "kokoro"}
    if asked != "auto":
        return asked
    if model_id not in known:
        raise ModelError(
            f"Expected the folder of the model {model_id}: pass it with --model FOLDER"
        )
    return known[model_id]


def export_bin(settings: Settings) -> tuple[Path, int]:
    """Writes the stock voices, or those of `voice_folder`, as one archive for kokoro-onnx.

    Returns:
        The path (`output_name`, or voices.bin) and how many voices are in it.
    """
    if settings.voice_folder is not None:
        voices = voice.load_folder(settings.voice_folder)
    else:
        model = models.load(settings.model)
        voices = models.stock_voices(model)
    path = Path(settings.output_name or "voices.bin")
    path = path if path.suffix in (".bin", ".npz") else path.with_name(f"{path.name}.bin")
    voice.save_archive(voices, path)
    return path, len(voices)


def transcribe_many(path: Path, lang_code: str, observer: Observer) -> list[Path]:
    """Writes a .txt beside a recording, or beside every recording of a folder that has none."""
    if not path.exists():
        raise TextError(f"--transcribe_many: expected a recording or a folder, {path} is not there")
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    recordings = [p for p in found if p.suffix.lower() in _AUDIO_SUFFIXES]
    if not recordings:
        raise TextError(f"--transcribe_many: expected recordings in {path}, and found none")
    transcriber = transcribe.Transcriber(english=lang_code in "ab")
    written = []
    for recording in recordings:
        if recording.with_suffix(".txt").exists():
            observer.notice(f"{recording.with_suffix('.txt')} is there already: left as it is.")
            continue
        beside = transcribe.save_beside(recording, transcriber.transcribe(recording))
        if beside is not None:
            written.append(beside)
            observer.notice(f"Wrote {beside}")
    return written


def _target_text(settings: Settings, observer: Observer) -> str:
    """What the recording says, and, told to the user, how that is known."""
    recording = settings.target_audio
    if recording is None:
        raise SettingsError("Expected a recording of the speaker: pass --target_audio FILE")
    if settings.target_text is not None and not settings.transcribe_start:
        return text.read_text(settings.target_text, "--target_text")
    beside = recording.with_suffix(".txt")
    if settings.transcribe_start:
        heard = transcribe.Transcriber(settings.lang_code in "ab").transcribe(recording)
        kept = transcribe.save_beside(recording, heard)
        observer.notice(f"Transcribed the recording{f' to {kept}' if kept else ''}: {heard}")
        return heard
    if beside.is_file():
        observer.notice(f"Target text: {beside}, beside the recording.")
        return text.read_text(str(beside), "the text beside the recording")
    if transcribe.is_available():
        try:
            heard = transcribe.Transcriber(settings.lang_code in "ab").transcribe(recording)
            observer.notice(f"Transcribed the recording: {heard}")
            return heard
        except TextError as error:
            observer.notice(str(error))
    observer.notice(
        "No --target_text, and no .txt beside the recording: speaking a default text instead; "
        "the words of the recording itself give a better comparison."
    )
    return text.DEFAULT_TARGET_TEXT


def pick_device(name: str) -> str:
    """The device to work on; "auto" is CUDA where there is one, else the CPU.

    "auto" leaves MPS out: parts of the synthesis fall back to the CPU there.

    Raises:
        SettingsError: the device is not on this machine.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[name]:
        raise SettingsError(
            f"--device {name}: this machine, or this build of torch, has no {name}; "
            "use --device auto"
        )
    return name


def _fingerprint(voices: Sequence[Voice]) -> str:
    digest = hashlib.sha256()
    for one in voices:
        digest.update(one.name.encode())
        digest.update(one.tensor.numpy().tobytes())
    return digest.hexdigest()
