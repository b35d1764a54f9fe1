"""Voices: the tensor that Kokoro speaks with, the files it lives in, and blends of several.

Knows the shape of a voice, the file formats of the programs that speak with one (kokoro,
Kokoro-FastAPI, kokoro-onnx, kokoro.js) and Kokoro-FastAPI's blend notation. Does not know how a
voice sounds, which voices are stock, where they lie, or what a model identifier means: it only
keeps voices of different models apart.

Beside each voice file it writes a sidecar, `<stem>.json`: name, model, provenance and the SHA-256
of the values, since the formats themselves have no room for them.
"""

import hashlib
import json
import math
import pickle
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from kvw import __version__
from kvw.errors import VoiceError
from kvw.files import replacing, write_json

SHAPE = (510, 1, 256)
"""One style of 256 values for each length of 1 to 510 phonemes."""

N_TIMBRE = 128
"""The first 128 values of a style condition the decoder, the rest the prosody predictor."""

SUFFIXES = (".pt", ".npy", ".npz", ".bin")
"""What voice files end in."""

_ARCHIVE_SUFFIXES = (".npz", ".bin")
_RAW_BYTES = math.prod(SHAPE) * 4
# The 54 stock voices in one tensor take 28 MB; a model's weights, often mistaken for a voice, 330.
_MAX_BYTES = 128 << 20
_VOICE_FORMAT = "kvw-voice/1"
_ARCHIVE_FORMAT = "kvw-voices/1"
_MAX_NAME = 64


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice with a name, checked when it is made.

    Attributes:
        name: What it is called; printable, not empty. See `safe_name` for names that every
            program reads.
        tensor: (510, 1, 256) float32, contiguous, on the CPU, finite. Any floating-point tensor of
            that shape is taken and copied, so a later change of the original changes no voice.
        model: Identifier of the model that it belongs to, such as "builtin" or "kokoro-82m"; None
            where that is not known. A voice means nothing to another model.
        provenance: How it came about; values that JSON can hold.

    Raises:
        VoiceError: The tensor's shape or type is another, or a value is NaN or infinite; the name
            is empty or not printable.
    """

    name: str
    tensor: torch.Tensor = field(repr=False)
    model: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise VoiceError(f"Expected a printable voice name, got {self.name!r}.")
        if self.model == "":
            raise VoiceError(f"Expected a model identifier or None for voice {self.name!r}.")
        tensor = _checked(self.tensor, f"Voice {self.name!r}", exactly=True)
        object.__setattr__(self, "tensor", tensor)
        object.__setattr__(self, "provenance", dict(self.provenance))

    @property
    def timbre(self) -> torch.Tensor:
        """(510, 1, 128): what the decoder is conditioned on."""
        return self.tensor[..., :N_TIMBRE]

    @property
    def prosody(self) -> torch.Tensor:
        """(510, 1, 128): what durations, F0 and energy are predicted from."""
        return self.tensor[..., N_TIMBRE:]

    @property
    def row_mean(self) -> torch.Tensor:
        """(256,): the mean over the 510 rows."""
        return self.tensor.mean(dim=(0, 1))


def _is_name(text: str) -> bool:
    return text != "" and text.isprintable()


# --- Reading -------------------------------------------------------------------------------------


def load(path: Path | str) -> Voice:
    """Reads a file that holds one voice, or one voice of an archive.

    The values may be (510, 1, 256) or the same with axes of size 1 more or fewer, such as
    (510, 256), in any floating-point type and from any device; they come out as float32. The name
    is the sidecar's where there is one, else an archive's own, else the file's stem.

    Formats, by suffix:
        .pt: one tensor by `torch.save`, as kokoro and Kokoro-FastAPI have it.
        .npy: one array.
        .npz, .bin: an archive of named arrays, as kokoro-onnx has it.
        .bin: 522,240 bytes of little-endian float32 without a header, as kokoro.js has it. The
            two kinds of .bin are told apart by their content.

    No pickled object is ever executed.

    Args:
        path: The file; or `ARCHIVE:NAME`, one voice of an archive.

    Raises:
        VoiceError: The file cannot be read, is no voice, or holds several; or the sidecar is
            damaged or describes other values.
    """
    file, entry = _split_entry(Path(path))
    voices = load_archive(file)
    if entry is not None:
        for voice in voices:
            if voice.name == entry:
                return voice
        raise VoiceError(f"{file} holds no voice {entry!r}; it holds {_few(voices)}.")
    if len(voices) > 1:
        raise VoiceError(
            f"{file} holds {_few(voices)}; name the one you mean, as in {file}:{voices[0].name}."
        )
    return voices[0]


def load_archive(path: Path | str) -> list[Voice]:
    """Reads all voices of a file, in the file's order; see `load` for the formats.

    A file of one voice gives a list of one.

    Raises:
        VoiceError: As `load`; one bad voice fails the whole archive.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise VoiceError(f"Expected a voice file, got the folder {path}.")
        with path.open("rb") as stream:
            head = stream.read(4)
        if suffix not in SUFFIXES:
            raise VoiceError(
                f"Expected a voice file ending in {', '.join(SUFFIXES)}, got {path}; if it is a "
                "voice, give it the suffix of its format."
            )
        if not head:
            raise VoiceError(f"{path} is empty; copy or make it again.")
        if suffix == ".pt":
            tensors = {path.stem: _read_pt(path)}
        elif suffix == ".npy":
            with path.open("rb") as stream:
                tensors = {path.stem: _read_npy(stream, str(path))}
        elif suffix == ".npz" or head == b"PK\x03\x04":
            tensors = _read_zip(path)
        else:
            tensors = {path.stem: _read_raw(path)}
        return _with_sidecar(path, tensors)
    except FileNotFoundError as error:
        raise VoiceError(f"There is no voice file {path}.") from error
    # ValueError: a name that no file system takes, such as one with a zero byte.
    except (OSError, ValueError) as error:
        raise VoiceError(f"The voice file {str(path)!r} cannot be read: {error}.") from error


def load_folder(folder: Path | str) -> list[Voice]:
    """Reads every voice file in `folder` (not in folders below it), archives too.

    Files of other suffixes and hidden files are passed over. The same voice in several formats
    counts once.

    Returns:
        The voices, sorted by name; at least one, and no name twice.

    Raises:
        VoiceError: The folder is missing or without voices, a file in it is bad, or two different
            voices have one name.
    """
    folder = Path(folder)
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES
            and not path.name.startswith(".")
            and not path.is_dir()
        )
    except (OSError, ValueError) as error:
        raise VoiceError(
            f"The folder of voices {str(folder)!r} cannot be read: {error}."
        ) from error
    found: dict[str, tuple[Path, Voice]] = {}
    for path in files:
        for voice in load_archive(path):
            other_path, other = found.setdefault(voice.name, (path, voice))
            if other.model is None:
                found[voice.name] = path, voice
            if not torch.equal(other.tensor, voice.tensor):
                raise VoiceError(
                    f"{other_path} and {path} hold different voices of the same name, "
                    f"{voice.name!r}; rename or remove one."
                )
            _common_model([other, voice], f"{other_path} and {path}")
    if not found:
        raise VoiceError(f"There is no voice file ({', '.join(SUFFIXES)}) in {folder}.")
    return [found[name][1] for name in sorted(found)]


def _split_entry(path: Path) -> tuple[Path, str | None]:
    """Takes `archive.npz:name` apart; any other path comes back whole, with None."""
    if not _is_file(path):
        archive, _, entry = str(path).rpartition(":")
        if entry and Path(archive).suffix.lower() in _ARCHIVE_SUFFIXES and _is_file(Path(archive)):
            return Path(archive), entry
    return path, None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that the file system does not take names no file
        return False


def _few(voices: Sequence[Voice]) -> str:
    """How many voices, and the first names."""
    names = ", ".join(voice.name for voice in voices[:3])
    if len(voices) == 1:
        return f"1 voice ({names})"
    return f"{len(voices)} voices ({names}{', …' if len(voices) > 3 else ''})"


def _check_kind(what: str, shape: tuple[int, ...], dtype: str, floating: bool) -> None:
    """Raises unless values of this shape and type can be a voice; see `load`."""
    if not floating:
        raise VoiceError(f"{what}: expected floating-point values, got {dtype}.")
    if tuple(n for n in shape if n != 1) != (SHAPE[0], SHAPE[2]):
        raise VoiceError(f"{what}: expected a voice of shape {SHAPE}, got {tuple(shape)}.")


def _checked(tensor: torch.Tensor, what: str, *, exactly: bool = False) -> torch.Tensor:
    """A copy of `tensor` as a voice has it; raises where it cannot be one.

    The copy owns its memory: a view would write the whole tensor that it is a view of.
    """
    _check_kind(what, tuple(tensor.shape), str(tensor.dtype), tensor.dtype.is_floating_point)
    if exactly and tuple(tensor.shape) != SHAPE:
        raise VoiceError(f"{what}: expected a voice of shape {SHAPE}, got {tuple(tensor.shape)}.")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise VoiceError(
            f"{what}: expected a dense tensor, got one on {tensor.device} with {tensor.layout}."
        )
    plain = tensor.detach().to("cpu", torch.float32).reshape(SHAPE)
    # Into a fresh tensor: torch.nn.Parameter and other subclasses stay outside.
    copy = torch.empty(SHAPE, dtype=torch.float32).copy_(plain)
    if not bool(torch.isfinite(copy).all()):
        n_bad = int((~torch.isfinite(copy)).sum())
        raise VoiceError(f"{what}: expected finite values, got {n_bad:,} that are NaN or infinite.")
    return copy


def _read_pt(path: Path) -> torch.Tensor:
    try:
        n_bytes = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                n_bytes = max(n_bytes, sum(entry.file_size for entry in archive.infolist()))
        if n_bytes > _MAX_BYTES:
            raise VoiceError(
                f"{path} holds {n_bytes / 1e6:,.0f} MB where a voice has 0.5; is it a model?"
            )
        with warnings.catch_warnings():
            # Torch warns of odd pickles before it refuses them; the refusal says enough.
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, VoiceError):
        raise
    except Exception as error:  # torch raises whatever a damaged file happens to run into
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise VoiceError(
                f"{path} holds Python objects, which can run code when loaded, so it is not "
                "loaded; save the bare tensor in the tool it came from."
            ) from error
        raise VoiceError(
            f"{path} is damaged, incomplete or no PyTorch file; copy or make it again."
        ) from error
    if isinstance(value, Mapping):
        keys = ", ".join(str(key) for key in list(value)[:3])
        raise VoiceError(
            f"{path}: expected a bare tensor, got a dictionary of {len(value)} entries ({keys}…), "
            "as models are saved."
        )
    if not isinstance(value, torch.Tensor):
        raise VoiceError(f"{path}: expected a bare tensor, got a {type(value).__name__}.")
    try:
        return _checked(value, str(path))
    except (RuntimeError, NotImplementedError) as error:  # a type that torch cannot convert
        raise VoiceError(f"{path}: {value.dtype} cannot be converted to float32.") from error


def _read_npy(stream: IO[bytes], what: str) -> torch.Tensor:
    """Reads an array; what the header says is checked before anything of its size is allocated."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = readers[version](stream)
    except OSError:
        raise
    except Exception as error:  # numpy raises whatever a damaged header happens to run into
        raise VoiceError(
            f"{what} is damaged, incomplete or no NumPy array; copy or make it again."
        ) from error
    kind = "Python objects" if dtype.hasobject else str(dtype)
    _check_kind(what, shape, kind, dtype.kind == "f")
    n_bytes = math.prod(shape) * dtype.itemsize
    data = stream.read(n_bytes)
    if len(data) < n_bytes:
        raise VoiceError(
            f"{what} is incomplete: expected {n_bytes:,} bytes of values, got {len(data):,}; copy "
            "or make it again."
        )
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        return _checked(torch.from_numpy(array.astype(np.float32)), what)


def _read_zip(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = {}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            for name in names:
                with archive.open(name) as stream:
                    entry = name.removesuffix(".npy")
                    tensors[entry] = _read_npy(stream, f"{path}:{entry}")
    except (OSError, VoiceError):
        raise
    except Exception as error:  # zipfile and zlib raise whatever a damaged file runs into
        raise VoiceError(
            f"{path} is damaged, incomplete or no NumPy archive; copy or make it again."
        ) from error
    if not tensors:
        raise VoiceError(f"{path} holds no array.")
    if len(tensors) < len(names):
        raise VoiceError(f"{path} holds several arrays of the same name; make it again.")
    if list(tensors) == ["arr_0"]:  # numpy's own name for an array that was given none
        return {path.stem: tensors["arr_0"]}
    return tensors


def _read_raw(path: Path) -> torch.Tensor:
    n_bytes = path.stat().st_size
    if n_bytes != _RAW_BYTES:
        raise VoiceError(
            f"{path}: expected {_RAW_BYTES:,} bytes of float32 (kokoro.js) or an archive "
            f"(kokoro-onnx), got {n_bytes:,} bytes; copy or make it again."
        )
    values = np.frombuffer(path.read_bytes(), "<f4").astype(np.float32)
    if values.size != math.prod(SHAPE):  # it changed between the two calls
        raise VoiceError(f"{path} changed while it was read; read it again.")
    return _checked(torch.from_numpy(values.reshape(SHAPE)), str(path))


# --- Sidecars ------------------------------------------------------------------------------------


def _digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the values as kokoro.js has them."""
    return hashlib.sha256(_raw(tensor)).hexdigest()


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().astype("<f4").tobytes()


def _description(voice: Voice) -> dict[str, Any]:
    return {
        "name": voice.name,
        "model": voice.model,
        "sha256": _digest(voice.tensor),
        "provenance": voice.provenance,
    }


def _sidecar(format_name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": format_name,
        "kvw_version": __version__,
        "shape": list(SHAPE),
        "dtype": "float32",
        **content,
    }


def _read_sidecar(path: Path) -> list[dict[str, Any]] | None:
    """The descriptions in the sidecar `path`; None where there is none, or another's JSON file.

    Raises OSError where it is there but cannot be read.
    """
    damaged = f"{path}, which describes the voice beside it, is damaged; repair it or move it away."
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise VoiceError(damaged) from error
    format_name = value.get("format") if isinstance(value, dict) else None
    if not isinstance(format_name, str) or not format_name.startswith("kvw-voice"):
        return None
    if format_name not in (_VOICE_FORMAT, _ARCHIVE_FORMAT):
        raise VoiceError(
            f"{path} is of format {format_name!r}, which KVW {__version__} does not know; update "
            "KVW."
        )
    entries = [value] if format_name == _VOICE_FORMAT else value.get("voices")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and _is_name(entry["name"])
        and isinstance(entry.get("model", 0), str | None)
        and entry["model"] != ""
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("provenance"), dict)
        for entry in entries
    ):
        raise VoiceError(damaged)
    return entries


def _with_sidecar(path: Path, tensors: Mapping[str, torch.Tensor]) -> list[Voice]:
    for name in tensors:
        if not _is_name(name):
            raise VoiceError(f"{str(path)!r}: expected printable voice names, got {name!r}.")
    sidecar = path.with_suffix(".json")
    entries = _read_sidecar(sidecar)
    if entries is None:
        return [Voice(name, tensor) for name, tensor in tensors.items()]
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    if len(entries) == len(tensors) == 1:  # the name is the sidecar's: a file may be renamed
        (name,) = tensors
        by_name = {name: entries[0]}
    else:
        by_name = {entry["name"]: entry for entry in entries}
    if {name: entry["sha256"] for name, entry in by_name.items()} != digests:
        raise VoiceError(
            f"{sidecar} describes other values than {path} holds, so its model is not known; "
            "remove the one that is wrong."
        )
    return [
        Voice(entry["name"], tensors[name], entry["model"], entry["provenance"])
        for name, entry in ((name, by_name[name]) for name in tensors)
    ]


# --- Writing -------------------------------------------------------------------------------------


def save(voice: Voice, path: Path | str) -> None:
    """Writes a voice in the format of the suffix, and its sidecar; `load` is the inverse.

    Formats: .pt a bare float32 CPU tensor (kokoro, Kokoro-FastAPI); .npy an array; .npz an archive
    of one (kokoro-onnx); .bin little-endian float32 without a header (kokoro.js). The values are
    kept bit for bit, and the same voice gives the same bytes. Those programs go by the file's
    name: see `safe_name`.

    Args:
        voice: The voice.
        path: The file; it is replaced where it exists, folders are made where they do not.

    Raises:
        VoiceError: The suffix is unknown, the place cannot be written, the provenance does not fit
            into JSON, or the sidecar's place is taken by a file that is not KVW's.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise VoiceError(f"Expected a file ending in {', '.join(SUFFIXES)}, got {path}.")

    def write(stream: IO[bytes]) -> None:
        if suffix == ".pt":
            # Given a path, torch would write the temporary file's random name into the file.
            torch.save(voice.tensor.clone(), stream)
        elif suffix == ".npy":
            np.save(stream, voice.tensor.numpy(), allow_pickle=False)
        elif suffix == ".npz":
            _write_zip([voice], stream)
        else:
            stream.write(_raw(voice.tensor))

    _write(path, write, _sidecar(_VOICE_FORMAT, _description(voice)))


def save_archive(voices: Iterable[Voice], path: Path | str) -> None:
    """Writes voices as one archive for kokoro-onnx, and its sidecar; `load_archive` inverts it.

    Args:
        voices: At least one, of different names and of one model.
        path: The file, ending in .npz or .bin; it is replaced where it exists.

    Raises:
        VoiceError: As `save`; or there is no voice, a name comes twice, or the models differ.
    """
    path = Path(path)
    voices = list(voices)
    if path.suffix.lower() not in _ARCHIVE_SUFFIXES:
        raise VoiceError(f"Expected an archive ending in .npz or .bin, got {path}.")
    if not voices:
        raise VoiceError(f"Expected at least one voice to write to {path}, got none.")
    names = [voice.name for voice in voices]
    for name in names:
        if names.count(name) > 1:
            raise VoiceError(
                f"Expected voices of different names for {path}, got {name!r} {names.count(name)} "
                "times."
            )
    _common_model(voices, "Voices of one archive")
    content = {"voices": [_description(voice) for voice in voices]}
    _write(path, lambda stream: _write_zip(voices, stream), _sidecar(_ARCHIVE_FORMAT, content))


def _write_zip(voices: Sequence[Voice], stream: IO[bytes]) -> None:
    """What `numpy.savez` writes, but for any name ("file" is taken there) and with a fixed date."""
    with zipfile.ZipFile(stream, "w") as archive:
        for voice in voices:
            with archive.open(zipfile.ZipInfo(f"{voice.name}.npy"), "w") as entry:
                np.lib.format.write_array(entry, voice.tensor.numpy(), allow_pickle=False)


def _write(path: Path, write: Callable[[IO[bytes]], None], sidecar: dict[str, Any]) -> None:
    beside = path.with_suffix(".json")
    try:
        json.dumps(sidecar, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise VoiceError(f"The provenance of {path} does not fit into JSON: {error}.") from error
    try:
        if path.is_dir():
            raise VoiceError(f"Expected a file to write, got the folder {path}.")
        old = _read_sidecar(beside)
        if old is None and beside.exists():
            raise VoiceError(
                f"{beside} is not KVW's, but is where the description of {path} would go; choose "
                "another name."
            )
        new = sidecar.get("voices", [sidecar])
        if old is not None and [e["sha256"] for e in old] != [e["sha256"] for e in new]:
            # An interruption between the two files must not leave a voice with the sidecar of the
            # one before it, but one without.
            beside.unlink(missing_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            write(stream)
        write_json(beside, sidecar)
    except (OSError, ValueError) as error:
        raise VoiceError(f"{str(path)!r} cannot be written: {error}.") from error


def safe_name(name: str) -> str:
    """A name like `name` that every program reads as one voice: `[a-z0-9_]`, 1 to 64 characters.

    Kokoro-FastAPI takes `+`, `-` and parentheses for a blend; kokoro splits at commas. Letters with
    accents lose them; other scripts are left out. Where nothing remains, the name is "voice".

    A program that picks the language by the name wants it to begin with the language's letter, as
    in `af_name` (American, female); that is not added here.
    """
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode("ascii")
    safe = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
    return safe[:_MAX_NAME].strip("_") or "voice"


# --- Blends --------------------------------------------------------------------------------------


class Term(NamedTuple):
    """One voice of a blend: its name and its weight, negative where it is subtracted."""

    name: str
    weight: float


_TERM = re.compile(r"\s*(?P<name>[^\s()+\-,]+)\s*(?:\((?P<weight>[^()]*)\)\s*)?")
_WEIGHT = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*")


def parse_blend(text: str) -> list[Term]:
    """Reads Kokoro-FastAPI's blend notation, such as `af_bella(2)+af_sky(1)-am_adam(0.5)`.

    Names are joined by `+` and `-`, each with a weight in parentheses (1 where there is none), a
    plain decimal number. A name has no `+`, `-`, comma, parenthesis or space; one name alone is a
    blend of one.

    Returns:
        The terms in their order, at least one, with weights not yet normalised; see `blend`.

    Raises:
        VoiceError: The text is not of this form, or the weights add up to nothing.
    """
    example = "expected voices joined by + or -, as in af_bella(2)+af_sky(1)"
    terms: list[Term] = []
    position, sign = 0, 1.0
    while True:
        match = _TERM.match(text, position)
        if match is None:
            rest = text[position:].strip()
            where = f"before {rest!r}" if rest else "at the end"
            raise VoiceError(f"The blend {text!r} lacks a voice name {where}: {example}.")
        terms.append(Term(match["name"], sign * _weight(match["weight"], text)))
        position = match.end()
        if position == len(text):
            break
        if text[position] not in "+-":
            raise VoiceError(
                f"The blend {text!r} cannot be read from {text[position:]!r} on: {example}."
            )
        sign = 1.0 if text[position] == "+" else -1.0
        position += 1
    _total([term.weight for term in terms], f"The blend {text!r}")
    return terms


def _weight(text: str | None, blend_text: str) -> float:
    if text is None:
        return 1.0
    match = _WEIGHT.fullmatch(text)
    if match is None or not math.isfinite(float(match[1])):
        raise VoiceError(
            f"The blend {blend_text!r} has the weight {text!r} where a plain number of 0 or more "
            "is expected, such as 0.5."
        )
    return float(match[1])


def _total(weights: Sequence[float], what: str) -> float:
    """The sum of the absolute weights."""
    total = 0.0
    for weight in weights:  # not sum(): from Python 3.12 on it rounds otherwise than Kokoro-FastAPI
        total += abs(weight)
    if not math.isfinite(total) or total <= 0:
        raise VoiceError(f"{what} has weights that add up to {total:g}; they must exceed 0.")
    return total


def blend(parts: Sequence[tuple[Voice, float]], name: str | None = None) -> Voice:
    """Adds voices up by weight, as Kokoro-FastAPI does.

    voice = sum_i weight_i / (sum_j |weight_j|) * voice_i. A subtracted voice counts towards the
    divisor with its absolute weight, so `a-b` is half the difference of a and b, and the weights of
    such a blend do not add up to 1. (Kokoro-FastAPI, api/src/services/tts_service.py,
    `TTSService.get_voices_path`.) The same operations in the same order and precision: the values
    are the same to the last bit.

    Args:
        parts: Voices with their weights, negative to subtract; at least one.
        name: The result's name; the blend's notation where it is None.

    Returns:
        The blend, of the model of those parts whose model is known. One part added alone comes back
        as it is, whatever its weight.

    Raises:
        VoiceError: There is no part, a weight is not finite, all are 0, or the models differ.
    """
    if not parts:
        raise VoiceError("Expected at least one voice to blend, got none.")
    voices = [voice for voice, _ in parts]
    weights = [float(weight) for _, weight in parts]
    notation = "".join(
        f"{'-' if weight < 0 else '+'}{_operand(voice.name)}({abs(weight):g})"
        for voice, weight in zip(voices, weights, strict=True)
    ).removeprefix("+")
    total = _total(weights, f"The blend {notation!r}")
    if len(parts) == 1 and weights[0] > 0:
        return voices[0] if name is None else replace(voices[0], name=name)
    model = _common_model(voices, f"The voices of the blend {notation!r}")
    tensor = voices[0].tensor * (weights[0] / total)
    for voice, weight in zip(voices[1:], weights[1:], strict=True):
        tensor += voice.tensor * (weight / total)
    provenance = {
        "blend": [
            {"name": voice.name, "weight": weight, "model": voice.model}
            for voice, weight in zip(voices, weights, strict=True)
        ]
    }
    return Voice(name or notation, tensor, model, provenance)


def _operand(name: str) -> str:
    """The name as it can stand in a blend's notation."""
    return safe_name(name) if re.search(r"[\s()+\-,]", name) else name


def _common_model(voices: Sequence[Voice], what: str) -> str | None:
    """The one model that is known among `voices`; raises where there are two."""
    known = {voice.model: voice.name for voice in voices if voice.model is not None}
    if len(known) > 1:
        owners = " and ".join(f"{name!r} to {model}" for model, name in list(known.items())[:2])
        raise VoiceError(f"{what} must be of one model, but {owners}.")
    return next(iter(known), None)


def resolve(text: str, find: Callable[[str], Voice]) -> Voice:
    """The voice that a person means by `text`: a file, a name, or a blend of either.

    In this order: an existing file (or `ARCHIVE:NAME`) is loaded, whatever characters its path has,
    except that a bare word is always a name; what looks like a path (it has a separator or a voice
    file's suffix, but neither `+` nor a parenthesis) is a file that is missing; anything else is a
    blend, in which each name may again be a file.

    Args:
        text: What was typed.
        find: Gives the voice of a name, or raises VoiceError.

    Raises:
        VoiceError: As `load`, `parse_blend`, `blend` and `find`.
    """
    text = text.strip()
    if _means_file(text):
        return load(text)
    return blend(
        [
            (load(term.name) if _means_file(term.name) else find(term.name), term.weight)
            for term in parse_blend(text)
        ]
    )


def _means_file(text: str) -> bool:
    path, entry = _split_entry(Path(text))
    has_separator = "/" in text or "\\" in text
    if _is_file(path):
        return has_separator or entry is not None or path.suffix != ""
    looks_like_path = has_separator or path.suffix.lower() in SUFFIXES
    return looks_like_path and not set(text) & set("+()")
