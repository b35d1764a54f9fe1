import dataclasses
import io
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kvw import voice as voice_module
from kvw.errors import VoiceError
from kvw.voice import (
    SHAPE,
    SUFFIXES,
    Term,
    Voice,
    blend,
    load,
    load_archive,
    load_folder,
    parse_blend,
    resolve,
    safe_name,
    save,
    save_archive,
)

STOCK = Path(__file__).parents[1] / ".." / "shared" / "voices"
FASTAPI_NAME = re.compile(r"[a-z][fm]_[a-z0-9_]+")


def values(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.2


def make(name: str = "af_test", seed: int = 0, **keywords: Any) -> Voice:
    return Voice(name, values(seed), **keywords)


def message_of(call: Callable[..., Any], *arguments: Any) -> str:
    """The error's message, which must be one line that ends as a sentence does."""
    with pytest.raises(VoiceError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and message[-1] in ".?"
    return message


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return bool(left.numpy().tobytes() == right.numpy().tobytes())


# --- Voice ---------------------------------------------------------------------------------------


def test_a_voice_is_a_checked_copy():
    stack = torch.stack([values(0), values(1)]).double().requires_grad_()
    voice = Voice("af_one", stack[1])
    assert voice.tensor.dtype == torch.float32
    assert voice.tensor.is_contiguous() and not voice.tensor.requires_grad
    assert voice.tensor.untyped_storage().nbytes() == 510 * 256 * 4
    with torch.no_grad():
        stack.zero_()
    assert torch.equal(voice.tensor, values(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        voice.name = "other"  # type: ignore[misc]


def test_the_parts_of_a_voice():
    tensor = torch.arange(510 * 256, dtype=torch.float32).reshape(SHAPE)
    voice = Voice("ramp", tensor)
    # Entry [i, 0, j] is 256 i + j, so the parts and the mean are known in closed form.
    assert voice.timbre.shape == voice.prosody.shape == (510, 1, 128)
    assert voice.timbre[3, 0, 127] == 3 * 256 + 127
    assert voice.prosody[3, 0, 0] == 3 * 256 + 128
    expected = 256 * 509 / 2 + torch.arange(256)
    torch.testing.assert_close(voice.row_mean, expected)


def test_a_voice_survives_being_sent_to_another_process():
    voice = make(model="builtin", provenance={"seed": 1})
    copy = pickle.loads(pickle.dumps(voice))  # noqa: S301
    assert same_bits(copy.tensor, voice.tensor)
    assert (copy.name, copy.model, copy.provenance) == ("af_test", "builtin", {"seed": 1})


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.zeros(511, 1, 256), "(511, 1, 256)"),
        (torch.zeros(510, 256), "(510, 256)"),
        (torch.zeros(0), "(0,)"),
        (torch.zeros(SHAPE, dtype=torch.int64), "torch.int64"),
        (torch.zeros(SHAPE, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(SHAPE, dtype=torch.bool), "torch.bool"),
        (torch.full(SHAPE, math.nan), "130,560 that are NaN or infinite"),
        (torch.zeros(SHAPE).index_put_((torch.tensor(7),), torch.tensor(-math.inf)), "256 that"),
        (torch.full(SHAPE, 1e300, dtype=torch.float64), "NaN or infinite"),
        (torch.zeros(SHAPE).to_sparse(), "sparse"),
        (torch.zeros(SHAPE, device="meta"), "meta"),
    ],
)
def test_what_no_voice_can_be_made_of(tensor, expected):
    assert expected in message_of(Voice, "af_bad", tensor)


@pytest.mark.parametrize("name", ["", "a\nb", "\x00", "\udcff"])
def test_names_that_cannot_be_shown(name):
    assert "printable" in message_of(Voice, name, values())


def test_an_empty_model_is_not_unknown():
    assert "model" in message_of(Voice, "af_test", values(), "")


# --- Round trips ---------------------------------------------------------------------------------

ODD_VALUES = [0.0, -0.0, 1e-45, -1e-38, 3.4028235e38, -3.4028235e38, 1 / 3, math.pi]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_format_keeps_every_bit(tmp_path, suffix):
    tensor = values()
    tensor.view(-1)[: len(ODD_VALUES)] = torch.tensor(ODD_VALUES)
    provenance = {"target": "Übung.wav", "settings": {"steps": 3, "sigma": 0.5}, "tags": [1, None]}
    voice = Voice("af_Übung (2)", tensor, "builtin", provenance)
    path = tmp_path / f"v-1.0{suffix}"
    save(voice, path)
    back = load(path)
    assert same_bits(back.tensor, tensor)
    assert (back.name, back.model, back.provenance) == ("af_Übung (2)", "builtin", provenance)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["v-1.0.json", path.name])

    first = path.read_bytes()
    save(voice, str(path))
    assert path.read_bytes() == first

    (tmp_path / "v-1.0.json").unlink()
    alone = load(str(path))
    assert same_bits(alone.tensor, tensor)
    assert (alone.model, alone.provenance) == (None, {})
    assert alone.name == ("af_Übung (2)" if suffix == ".npz" else "v-1.0")


@pytest.mark.parametrize("suffix", [".npz", ".bin"])
def test_an_archive_keeps_every_bit_name_and_model(tmp_path, suffix):
    # "file" and "allow_pickle" are parameters of numpy.savez.
    names = ["af_b", "af_a", "file", "allow_pickle", "x.npy"]
    voices = [make(name, seed, provenance={"seed": seed}) for seed, name in enumerate(names)]
    voices[1] = dataclasses.replace(voices[1], model="kokoro-82m")
    path = tmp_path / f"voices-v1.0{suffix}"
    save_archive(iter(voices), path)
    back = load_archive(path)
    assert [voice.name for voice in back] == names
    assert [voice.provenance["seed"] for voice in back] == list(range(5))
    assert [voice.model for voice in back] == [None, "kokoro-82m", None, None, None]
    assert all(same_bits(b.tensor, v.tensor) for b, v in zip(back, voices, strict=True))
    assert same_bits(load(f"{path}:file").tensor, voices[2].tensor)

    message = message_of(load, path)
    assert "5 voices (af_b, af_a, file, …)" in message and f"{path}:af_b" in message
    assert "no voice 'af_c'" in message_of(load, f"{path}:af_c")


def test_an_archive_of_one_loads_by_itself(tmp_path):
    save_archive([make("af_only")], tmp_path / "one.bin")
    assert load(tmp_path / "one.bin").name == "af_only"
    np.savez(tmp_path / "nameless.npz", values().numpy())
    assert load(tmp_path / "nameless.npz").name == "nameless"


def test_archives_that_are_not_written(tmp_path):
    path = tmp_path / "a.npz"
    assert "at least one" in message_of(save_archive, [], path)
    assert "'af_x' 2 times" in message_of(save_archive, [make("af_x"), make("af_x", 1)], path)
    mixed = [make("af_x", model="builtin"), make("af_y", model="kokoro-82m")]
    assert "one model" in message_of(save_archive, mixed, path)
    assert ".npz or .bin" in message_of(save_archive, [make()], tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_view_of_a_stack_is_written_alone(tmp_path, suffix):
    stack = torch.stack([values(seed) for seed in range(8)])
    save(Voice("af_view", stack[3]), tmp_path / f"v{suffix}")
    assert (tmp_path / f"v{suffix}").stat().st_size < 522_240 + 2_000


# --- The real programs ---------------------------------------------------------------------------


def test_kokoro_reads_what_is_written(tmp_path):
    from kokoro import KPipeline  # seven seconds that the other tests do not need

    save(make(), tmp_path / "af_test.pt")
    pipeline = object.__new__(KPipeline)  # its __init__ may download; the loader needs this alone
    pipeline.voices = {}
    pack = pipeline.load_voice(str(tmp_path / "af_test.pt"))
    assert isinstance(pack, torch.FloatTensor)  # what KPipeline tells a tensor from a name by
    assert same_bits(pack, values())
    assert pack[len("phonemes") - 1].shape == (1, 256)  # KPipeline.infer


def test_kokoro_fastapi_reads_what_is_written(tmp_path):
    save(make(), tmp_path / "af_test.pt")
    weighted = torch.load(tmp_path / "af_test.pt", map_location="cpu", weights_only=True) * 0.5
    assert torch.equal(weighted, values() * 0.5)


@pytest.mark.parametrize("name", ["voices.bin", "voices.npz"])
def test_kokoro_onnx_speaks_with_what_is_written(tmp_path, name):
    kokoro_onnx = pytest.importorskip("kokoro_onnx")
    save_archive([make("af_one", 1), make("bm_two", 2)], tmp_path / name)
    (tmp_path / "model.onnx").touch()
    styles = []

    class Session:
        """Stands in for the ONNX model: keeps the style that it is given."""

        _model_path = str(tmp_path / "model.onnx")

        def get_modelmeta(self):
            return SimpleNamespace(custom_metadata_map={})

        def get_inputs(self):
            types = {"tokens": "tensor(int64)", "style": "tensor(float)", "speed": "tensor(float)"}
            return [SimpleNamespace(name=name, type=kind) for name, kind in types.items()]

        def get_outputs(self):
            return [SimpleNamespace(name="audio")]

        def run(self, _, inputs):
            styles.append(inputs["style"])
            return [np.ones(2400, np.float32)]

    kokoro = kokoro_onnx.Kokoro.from_session(Session(), str(tmp_path / name))
    assert kokoro.get_voices() == ["af_one", "bm_two"]
    kokoro.create("hɛloʊ", voice="bm_two", is_phonemes=True)
    (style,) = styles
    assert style.shape == (1, 256)
    # Which row belongs to five phonemes differs between versions of kokoro-onnx.
    assert any(np.array_equal(style, values(2)[row].numpy()) for row in (4, 5))


def test_a_voice_alone_is_an_archive_for_kokoro_onnx(tmp_path):
    save(make("af_one"), tmp_path / "v.npz")
    archive = np.load(tmp_path / "v.npz")
    assert list(archive) == ["af_one"]
    assert same_bits(torch.from_numpy(archive["af_one"]), values())


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_javascript_reads_what_is_written(tmp_path):
    save(make(), tmp_path / "af_test.bin")
    program = """
        const buffer = require("fs").readFileSync(process.argv[1]);
        const voice = new Float32Array(buffer.buffer, buffer.byteOffset, buffer.length / 4);
        const offset = 256 * 41;
        process.stdout.write(JSON.stringify([voice.length, ...voice.slice(offset, offset + 256)]));
    """
    output = subprocess.run(
        ["node", "-e", program, str(tmp_path / "af_test.bin")], capture_output=True, check=True
    ).stdout
    length, *row = json.loads(output)
    assert length == 510 * 256
    assert row == values()[41, 0].tolist()


def test_the_raw_format_is_the_data_of_the_pt_file(tmp_path):
    save(make(), tmp_path / "v.bin")
    save(make(), tmp_path / "v.pt")
    data = (tmp_path / "v.bin").read_bytes()
    assert len(data) == 522_240
    with zipfile.ZipFile(tmp_path / "v.pt") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data/0")]
        assert archive.read(name) == data


@pytest.mark.skipif(not STOCK.is_dir(), reason="needs the stock voices")
def test_all_stock_voices_load():
    voices = load_folder(STOCK)
    assert len(voices) == 54
    assert all(FASTAPI_NAME.fullmatch(voice.name) for voice in voices)
    assert all(safe_name(voice.name) == voice.name for voice in voices)
    spread = torch.stack([voice.row_mean for voice in voices]).std(0).mean().item()
    assert 0.05 < spread < 0.3
    # Stock rows are nearly the same from one length to the next; noise would not be.
    for voice in voices:
        rows = voice.tensor[:, 0]
        assert torch.cosine_similarity(rows[100:-1], rows[101:]).min() > 0.99


# --- What is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [SHAPE, (510, 256), (1, 510, 1, 256), (1, 510, 256)])
def test_other_types_and_axes_of_one_are_taken(tmp_path, dtype, shape):
    tensor = values().to(dtype).reshape(shape)
    torch.save(tensor, tmp_path / "v.pt")
    assert torch.equal(load(tmp_path / "v.pt").tensor, tensor.float().reshape(SHAPE))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_numpy_arrays_of_any_byte_order_and_layout_are_taken(tmp_path, dtype):
    array = values().numpy().astype(dtype)
    np.save(tmp_path / "v.npy", np.asfortranarray(array))
    np.savez_compressed(tmp_path / "w.npz", v=array)
    expected = torch.from_numpy(array.astype(np.float32))
    assert torch.equal(load(tmp_path / "v.npy").tensor, expected)
    assert torch.equal(load(tmp_path / "w.npz").tensor, expected)


def test_parameters_views_and_old_pytorch_files_are_taken(tmp_path):
    torch.save(torch.nn.Parameter(values()), tmp_path / "parameter.pt")
    torch.save(torch.stack([values(1), values()])[1], tmp_path / "view.pt")
    torch.save(values(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tmp_path.glob("*.pt"):
        tensor = load(path).tensor
        assert type(tensor) is torch.Tensor and not tensor.requires_grad
        assert same_bits(tensor, values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_of_a_gpu_is_taken(tmp_path):
    torch.save(values().cuda(), tmp_path / "v.pt")
    save(Voice("af_gpu", values().cuda()), tmp_path / "w.pt")
    assert same_bits(load(tmp_path / "v.pt").tensor, values())
    plain = torch.load(tmp_path / "w.pt", weights_only=True)
    assert plain.device.type == "cpu" and same_bits(plain, values())


def test_a_tensor_saved_from_a_gpu_is_taken_without_one(tmp_path):
    # The location is a string in the pickle; "cuda:0" has two letters more than "cpu".
    torch.save(values(), tmp_path / "v.pt")
    with zipfile.ZipFile(tmp_path / "v.pt") as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "gpu.pt", "w") as archive:
        for entry, data in entries.items():
            moved = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            assert entry.endswith("data.pkl") == (moved != data)
            archive.writestr(entry, moved)
    assert same_bits(load(tmp_path / "gpu.pt").tensor, values())


# --- What is refused -----------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path):
    for suffix in SUFFIXES:
        assert "There is no voice file" in message_of(load, tmp_path / f"none{suffix}")
        (tmp_path / f"empty{suffix}").touch()
        assert "empty" in message_of(load, tmp_path / f"empty{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        assert "folder" in message_of(load, tmp_path / f"folder{suffix}")
    assert "cannot be read" in message_of(load, "a\0b.pt")
    assert "cannot be read" in message_of(load, "a" * 5000 + ".pt")
    (tmp_path / "v.wav").write_bytes(b"RIFF")
    assert ".pt, .npy, .npz, .bin" in message_of(load, tmp_path / "v.wav")
    assert "no voice file" in message_of(load, tmp_path / "none.wav")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    save(make(), tmp_path / "v.pt")
    (tmp_path / "v.pt").chmod(0)
    assert "cannot be read" in message_of(load, tmp_path / "v.pt")


GARBAGE = {
    "random": bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)),
    "text": b"hello world, this is not a voice\n" * 50,
    "html": b"<!DOCTYPE html><html>404</html>",
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 523425\n",
    "one byte": b"\x80",
    "zip": b"PK\x03\x04" + bytes(100),
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': ",
    "npy 9.0": b"\x93NUMPY\x09\x00v\x00{'descr': ",
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage(tmp_path, recwarn, suffix, kind):
    (tmp_path / f"v{suffix}").write_bytes(GARBAGE[kind])
    assert str(tmp_path / f"v{suffix}") in message_of(load, tmp_path / f"v{suffix}")
    assert not recwarn.list


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_format_under_the_suffix_of_another(tmp_path, suffix):
    save(make(), tmp_path / f"v{suffix}")
    for other in set(SUFFIXES) - {suffix}:
        path = tmp_path / f"w{other}"
        shutil.copy(tmp_path / f"v{suffix}", path)
        if (suffix, other) == (".npz", ".bin"):  # kokoro-onnx calls its archives .bin
            assert same_bits(load(path).tensor, values())
        else:
            assert str(path) in message_of(load, path)


def write_archive(path: Path) -> None:
    save_archive([make("af_one", 1), make("af_two", 2)], path)


def write_old_pt(path: Path) -> None:
    torch.save(values(), path, _use_new_zipfile_serialization=False)


def write_compressed(path: Path) -> None:
    np.savez_compressed(path, v=values().numpy())


WRITERS: dict[str, Callable[[Path], None]] = {
    "v.pt": lambda path: save(make(), path),
    "old.pt": write_old_pt,
    "v.npy": lambda path: save(make(), path),
    "v.npz": lambda path: save(make(), path),
    "compressed.npz": write_compressed,
    "v.bin": lambda path: save(make(), path),
    "archive.bin": write_archive,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_never_loads(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.with_suffix(".json").unlink(missing_ok=True)
    load_archive(path)
    data = path.read_bytes()
    size = len(data)
    random = np.random.default_rng(1).integers(1, size, 20).tolist()
    for cut in {*range(70), *random, size // 2, *(size - k for k in range(1, 30)), size - 1000}:
        path.write_bytes(data[:cut])
        assert str(path) in message_of(load, path)


@pytest.mark.parametrize("name", ["v.npz", "compressed.npz", "archive.bin"])
def test_a_changed_byte_in_an_archive_is_noticed(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.with_suffix(".json").unlink(missing_ok=True)
    data = path.read_bytes()
    for at in np.random.default_rng(2).integers(300, len(data) - 500, 20).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert str(path) in message_of(load, path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_changed_byte_anywhere_gives_a_voice_or_an_error(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.with_suffix(".json").unlink(missing_ok=True)
    data = path.read_bytes()
    # Headers and directories lie at the ends.
    places = [*range(0, 200, 3), *range(len(data) - 400, len(data), 5)]
    for at in places:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            voices = load_archive(path)
        except VoiceError as error:
            assert name in str(error)
        else:
            assert all(bool(torch.isfinite(voice.tensor).all()) for voice in voices)


class Trap:
    """What an attacker would put into a file: it creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_file_never_runs(tmp_path, nested):
    marker = tmp_path / "marker"
    value = {"voice": values(), "trap": Trap(marker)} if nested else Trap(marker)
    torch.save(value, tmp_path / "new.pt")
    torch.save(value, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    objects: np.ndarray = np.empty(1, dtype=object)
    objects[0] = Trap(marker)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", af_x=objects)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for suffix in SUFFIXES:
            bare = pickle.dumps(value, protocol=protocol)
            (tmp_path / f"bare{protocol}{suffix}").write_bytes(bare)
    for path in tmp_path.iterdir():
        assert str(path) in message_of(load, path)
    for name in ("new.pt", "old.pt"):
        message = message_of(load, tmp_path / name)
        assert "run code" in message and "bare tensor in the tool it came from" in message
    assert "Python objects" in message_of(load, tmp_path / "objects.npy")
    assert not marker.exists()
    # The trap is a real one.
    torch.load(tmp_path / "new.pt", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"decoder.weight": torch.zeros(2), "b": torch.zeros(2)}, "2 entries (decoder.weight, b"),
        ([values()], "got a list"),
        (7, "got a int"),
        (torch.zeros(511, 1, 256), "(511, 1, 256)"),
        (torch.zeros(256, 510), "(256, 510)"),
        (torch.zeros(2, 510, 1, 256), "(2, 510, 1, 256)"),
        (torch.zeros(510 * 256), "(130560,)"),
        (torch.tensor(0.0), "()"),
        (torch.zeros(SHAPE, dtype=torch.int32), "torch.int32"),
        (torch.zeros(SHAPE, dtype=torch.complex64), "torch.complex64"),
        (torch.full(SHAPE, math.nan), "NaN"),
        (torch.full(SHAPE, 1e39, dtype=torch.float64), "NaN or infinite"),
        (torch.zeros(SHAPE).to_sparse(), "sparse"),
        (torch.zeros(1).expand(10**9, 1, 256), "(1000000000, 1, 256)"),
        (torch.nn.Linear(2, 2), "Python objects"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_pt_files_that_hold_no_voice(tmp_path, value, expected):
    torch.save(value, tmp_path / "v.pt")
    message = message_of(load, tmp_path / "v.pt")
    assert expected in message and str(tmp_path / "v.pt") in message


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((511, 1, 256), np.float32), "(511, 1, 256)"),
        (np.zeros(SHAPE, np.int32), "int32"),
        (np.zeros(SHAPE, np.complex64), "complex64"),
        (np.zeros(SHAPE, "S4"), "|S4"),
        (np.zeros(SHAPE, [("a", "<f4")]), "'a'"),
        (np.full(SHAPE, np.inf, np.float32), "infinite"),
        (np.full(SHAPE, 1e300), "infinite"),
    ],
)
def test_numpy_files_that_hold_no_voice(tmp_path, recwarn, array, expected):
    np.save(tmp_path / "v.npy", array)
    np.savez(tmp_path / "w.npz", af_good=values().numpy(), af_bad=array)
    assert expected in message_of(load, tmp_path / "v.npy")
    message = message_of(load_archive, tmp_path / "w.npz")
    assert expected in message and f"{tmp_path / 'w.npz'}:af_bad" in message
    assert not recwarn.list


def test_a_raw_file_of_bad_values(tmp_path):
    bad = values().numpy().copy()
    bad[5, 0, 5] = np.nan
    (tmp_path / "v.bin").write_bytes(bad.tobytes())
    assert "1 that are NaN" in message_of(load, tmp_path / "v.bin")
    (tmp_path / "v.bin").write_bytes(bad.tobytes() + b"\0")
    assert "522,241" in message_of(load, tmp_path / "v.bin")


def npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def test_a_header_that_promises_too_much_costs_nothing(tmp_path):
    (tmp_path / "v.npy").write_bytes(npy_header((510, 10**12, 256)))
    assert "(510, 1000000000000, 256)" in message_of(load, tmp_path / "v.npy")
    with zipfile.ZipFile(tmp_path / "v.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy_header((10**9,)) + bytes(10**6))
    assert "(1000000000,)" in message_of(load, tmp_path / "v.npz")


def test_a_file_that_unpacks_to_more_than_any_voice_is_not_unpacked(tmp_path, monkeypatch):
    save(make(), tmp_path / "v.pt")
    with zipfile.ZipFile(tmp_path / "v.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(3_000_000))
    monkeypatch.setattr(voice_module, "_MAX_BYTES", 2_000_000)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    assert (tmp_path / "v.pt").stat().st_size < 2_000_000
    assert "is it a model?" in message_of(load, tmp_path / "v.pt")


def test_an_archive_without_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert "no array" in message_of(load, tmp_path / "v.npz")


def test_an_archive_with_a_name_twice(tmp_path):
    save_archive([make("af_x")], tmp_path / "v.npz")
    (tmp_path / "v.json").unlink()
    with zipfile.ZipFile(tmp_path / "v.npz", "a") as archive:
        data = archive.read("af_x.npy")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("af_x.npy", data)
    assert "same name" in message_of(load, tmp_path / "v.npz")


# --- Sidecars ------------------------------------------------------------------------------------


def test_what_a_sidecar_says(tmp_path):
    save(make(model="builtin", provenance={"score": 0.5}), tmp_path / "v.pt")
    sidecar = json.loads((tmp_path / "v.json").read_text("utf-8"))
    assert sidecar["format"] == "kvw-voice/1"
    assert sidecar["kvw_version"]
    assert (sidecar["name"], sidecar["model"]) == ("af_test", "builtin")
    assert (sidecar["shape"], sidecar["dtype"]) == ([510, 1, 256], "float32")
    assert sidecar["provenance"] == {"score": 0.5}


def test_one_sidecar_serves_a_voice_in_all_formats(tmp_path):
    for suffix in SUFFIXES:
        save(make("af_all", model="builtin"), tmp_path / f"v{suffix}")
    assert {load(tmp_path / f"v{suffix}").model for suffix in SUFFIXES} == {"builtin"}
    (voice,) = load_folder(tmp_path)
    assert voice.name == "af_all"


def test_a_file_renamed_with_its_sidecar(tmp_path):
    save(make("af_old", model="builtin"), tmp_path / "v.npz")
    for suffix in (".npz", ".json"):
        (tmp_path / f"v{suffix}").rename(tmp_path / f"w{suffix}")
    assert (load(tmp_path / "w.npz").name, load(tmp_path / "w.npz").model) == ("af_old", "builtin")


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other/1"}', '{"format": 1}', "null"])
def test_json_of_others_is_ignored_and_never_replaced(tmp_path, content):
    torch.save(values(), tmp_path / "v.pt")
    (tmp_path / "v.json").write_text(content)
    assert load(tmp_path / "v.pt").model is None
    before = (tmp_path / "v.pt").read_bytes()
    assert "not KVW's" in message_of(save, make(seed=1), tmp_path / "v.pt")
    assert (tmp_path / "v.json").read_text() == content
    assert (tmp_path / "v.pt").read_bytes() == before


def test_a_damaged_sidecar_is_an_error(tmp_path):
    save(make(model="builtin"), tmp_path / "v.pt")
    sidecar = tmp_path / "v.json"
    good = sidecar.read_text()
    for cut in (0, 1, 20, len(good) // 2, len(good) - 3):
        sidecar.write_text(good[:cut])
        message = message_of(load, tmp_path / "v.pt")
        assert str(sidecar) in message and "damaged" in message
    sidecar.write_bytes(b"\xff\xfe{}")
    assert "damaged" in message_of(load, tmp_path / "v.pt")
    sidecar.write_text("[" * 200_000)
    assert "damaged" in message_of(load, tmp_path / "v.pt")
    for key, value in {
        "name": "", "model": 7, "sha256": None, "provenance": [], "format": "kvw-voices/1",
    }.items():  # fmt: skip
        sidecar.write_text(json.dumps({**json.loads(good), key: value}))
        assert "damaged" in message_of(load, tmp_path / "v.pt")
    sidecar.write_text(json.dumps({k: v for k, v in json.loads(good).items() if k != "model"}))
    assert "damaged" in message_of(load, tmp_path / "v.pt")
    sidecar.write_text(json.dumps({**json.loads(good), "format": "kvw-voice/2"}))
    assert "update KVW" in message_of(load, tmp_path / "v.pt")


def test_a_sidecar_of_other_values_is_an_error(tmp_path):
    save(make(model="builtin"), tmp_path / "v.pt")
    torch.save(values(1), tmp_path / "v.pt")  # by another program, over KVW's file
    message = message_of(load, tmp_path / "v.pt")
    assert str(tmp_path / "v.json") in message and "remove" in message
    write_archive(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", af_one=values(1).numpy(), af_new=values(2).numpy())
    assert "other values" in message_of(load_archive, tmp_path / "w.npz")


def test_an_interrupted_save_leaves_a_voice_that_loads(tmp_path, monkeypatch):
    path = tmp_path / "best.pt"
    save(make(seed=0, model="builtin"), path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(voice_module, "write_json", killed)  # after the voice, before the sidecar
        with pytest.raises(KeyboardInterrupt):
            save(make(seed=1, model="builtin"), path)
    assert same_bits(load(path).tensor, values(1))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)  # in the middle of the voice
        with pytest.raises(KeyboardInterrupt):
            save(make(seed=2, model="builtin"), path)
    assert same_bits(load(path).tensor, values(1))
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]

    save(make(seed=2, model="builtin"), path)
    assert load(path).model == "builtin"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.pt").mkdir()
    assert "cannot be written" in message_of(save, make(), tmp_path / "file" / "v.pt")
    assert "folder" in message_of(save, make(), tmp_path / "folder.pt")
    assert ".pt, .npy, .npz, .bin" in message_of(save, make(), tmp_path / "v.wav")
    assert "cannot be written" in message_of(save, make(), tmp_path / ("a" * 300 + ".pt"))
    assert "cannot be written" in message_of(save, make(), Path("a\0b.pt"))
    for provenance in ({"a": object()}, {"a": math.nan}, {"a": torch.zeros(1)}):
        bad = make(provenance=provenance)
        assert "JSON" in message_of(save, bad, tmp_path / "v.pt")
    assert not (tmp_path / "v.pt").exists()
    save(make(), tmp_path / "new" / "folder" / "v.pt")
    assert load(tmp_path / "new" / "folder" / "v.pt").name == "af_test"


# --- Folders -------------------------------------------------------------------------------------


def test_a_folder_gives_its_voices_by_name(tmp_path):
    save(make("af_c", 1), tmp_path / "1.pt")
    save(make("af_a", 2), tmp_path / "2.npy")
    save_archive([make("af_d", 3), make("af_b", 4)], tmp_path / "3.npz")
    (tmp_path / "README.md").write_text("voices")
    (tmp_path / ".hidden.pt").write_bytes(b"half of a voice")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "below").mkdir()
    save(make("af_e", 5), tmp_path / "below" / "5.pt")
    voices = load_folder(tmp_path)
    assert [voice.name for voice in voices] == ["af_a", "af_b", "af_c", "af_d"]
    assert same_bits(voices[1].tensor, values(4))


def test_one_bad_file_spoils_a_folder(tmp_path):
    save(make("af_a"), tmp_path / "af_a.pt")
    (tmp_path / "af_b.pt").write_bytes(b"no voice")
    assert str(tmp_path / "af_b.pt") in message_of(load_folder, str(tmp_path))


def test_folders_without_voices(tmp_path):
    assert "no voice file" in message_of(load_folder, tmp_path)
    assert "cannot be read" in message_of(load_folder, tmp_path / "none")
    (tmp_path / "file").touch()
    assert "cannot be read" in message_of(load_folder, tmp_path / "file")


def test_two_voices_of_one_name_in_a_folder(tmp_path):
    save(make("af_a", 0), tmp_path / "1.pt")
    save(make("af_a", 0, model="builtin"), tmp_path / "2.pt")
    assert [voice.model for voice in load_folder(tmp_path)] == ["builtin"]
    save(make("af_a", 0, model="kokoro-82m"), tmp_path / "3.pt")
    assert "one model" in message_of(load_folder, tmp_path)
    save(make("af_a", 1), tmp_path / "3.pt")
    message = message_of(load_folder, tmp_path)
    assert "'af_a'" in message and str(tmp_path / "3.pt") in message


# --- Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("af_heart", "af_heart"),
        ("af_bella(2)+af_sky(1)", "af_bella_2_af_sky_1"),
        ("af_My Voice-2.0", "af_my_voice_2_0"),
        ("Zoë Müller", "zoe_muller"),
        ("Straße", "strasse"),
        ("声", "voice"),
        ("", "voice"),
        ("+-()", "voice"),
        ("../../etc/passwd", "etc_passwd"),
        ("x" * 500, "x" * 64),
        ("a" * 63 + " b", "a" * 63),
    ],
)
def test_safe_names(name, expected):
    assert safe_name(name) == expected
    assert safe_name(expected) == expected


def test_any_safe_name_is_one_voice_everywhere():
    random = np.random.default_rng(3)
    for _ in range(300):
        code_points = random.choice([128, 0x2100, 0x10FFFF]) * random.random(12)
        safe = safe_name("".join(chr(int(point)) for point in code_points))
        assert re.fullmatch(r"[a-z0-9_]{1,64}", safe)
        assert FASTAPI_NAME.fullmatch(f"af_{safe}")
        assert re.split(r"([-+])", safe) == [safe]  # Kokoro-FastAPI
        assert safe.split(",") == [safe]  # KPipeline.load_voice
        assert parse_blend(safe) == [Term(safe, 1.0)]


# --- Blends --------------------------------------------------------------------------------------


def fastapi_blend(text: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Kokoro-FastAPI's rule, written down from its description rather than shared with KVW."""
    pieces = re.split(r"([-+])", text.replace(" ", ""))
    operators, operands = ["+", *pieces[1::2]], []
    divisor = 0.0
    for piece in pieces[::2]:
        name, _, rest = piece.partition("(")
        weight = float(rest.rstrip(")")) if rest else 1.0
        operands.append((name, weight))
        divisor += weight
    result = torch.zeros(SHAPE)
    for operator, (name, weight) in zip(operators, operands, strict=True):
        share = tensors[name] * (weight / divisor)
        result = result + share if operator == "+" else result - share
    return result


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a(3)",
        "a(0.25)",
        "a+b",
        "a(2)+b(1)",
        "a-b",
        "a(2)-b(0.5)+c(.3)",
        " a ( 2 ) + b(1.) - c ",
        "a(0.1)+b(0.1)+c(0.1)+a(0.1)+b(0.1)+c(0.1)+a(0.1)+b(0.1)+c(0.1)+a(0.1)",
        "a(0)+b",
        "a+a-a",
    ],
)
def test_blends_are_kokoro_fastapis_to_the_last_bit(text):
    voices = {name: make(name, seed) for seed, name in enumerate("abc")}
    result = blend([(voices[term.name], term.weight) for term in parse_blend(text)])
    expected = fastapi_blend(text, {name: voice.tensor for name, voice in voices.items()})
    assert torch.equal(result.tensor, expected)


def test_a_blend_of_weights_is_a_mean():
    one, four = Voice("one", torch.ones(SHAPE)), Voice("four", torch.full(SHAPE, 4.0))
    mixed = blend([(one, 2), (four, 1)])
    torch.testing.assert_close(mixed.tensor, torch.full(SHAPE, 2.0))
    assert mixed.name == "one(2)+four(1)"
    assert mixed.provenance["blend"] == [
        {"name": "one", "weight": 2.0, "model": None},
        {"name": "four", "weight": 1.0, "model": None},
    ]
    assert torch.equal(one.tensor, torch.ones(SHAPE))  # the parts stay as they were


def test_the_terms_of_a_blend():
    assert parse_blend("af_bella(2)+af_sky(1)") == [("af_bella", 2.0), ("af_sky", 1.0)]
    assert parse_blend("af_bella - af_sky(.5)") == [("af_bella", 1.0), ("af_sky", -0.5)]
    assert parse_blend("voices/é.pt(2)+x") == [("voices/é.pt", 2.0), ("x", 1.0)]


def test_the_name_of_a_blend_is_its_notation():
    parts = [(make("a+b(1)", 0), 1.0), (make("c", 1), -0.5)]
    mixed = blend(parts)
    assert parse_blend(mixed.name) == [("a_b_1", 1.0), ("c", -0.5)]
    assert blend(parts, "af_new").name == "af_new"
    assert blend(parts[:1]).name == "a+b(1)"
    assert blend(parts[:1], "af_new").name == "af_new"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "+", "-", "a+", "+a", "-a", "a++b", "a+-b", "a--b", "a + + b", "(2)", "(2)a",
        "a(2", "a2)", "a(2))", "a((2))", "a(b(1))", "a(2)(3)", "a(2)b", "a b", "a,b", "(a+b)(2)",
        "a()", "a( )", "a(x)", "a(-1)", "a(+1)", "a(1e3)", "a(1e-3)", "a(inf)", "a(nan)", "a(1,5)",
        "a(1_0)", "a(٣)", "a(.)", "a(1.2.3)", "a(" + "9" * 400 + ")", "a(0)", "a(0)+b(0)",
        "a(0)-b(0)", "a(1" + "0" * 308 + ")+b(1" + "0" * 308 + ")", "a\x00b+", "a\nb",
    ],
)  # fmt: skip
def test_blends_that_cannot_be_read(text):
    assert "blend" in message_of(parse_blend, text).lower()


def test_parts_that_cannot_be_blended():
    assert "at least one" in message_of(blend, [])
    for weights in ([0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [1e308, 1e308]):
        parts = [(make("a"), weights[0]), (make("b"), weights[1])]
        assert "add up" in message_of(blend, parts)
    parts = [(make("a", model="builtin"), 1.0), (make("b"), 1.0), (make("c", model="x"), 1.0)]
    message = message_of(blend, parts)
    assert "'a' to builtin" in message and "'c' to x" in message
    assert blend(parts[:2]).model == "builtin"
    assert blend([parts[1], parts[1]]).model is None


# --- Resolving -----------------------------------------------------------------------------------


def find(name: str) -> Voice:
    known = {"a": 0, "b": 1, "af_x-y": 2, "v1.0": 3}
    if name not in known:
        raise VoiceError(f"There is no voice {name!r}.")
    return make(name, known[name])


def test_names_and_blends_go_through_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert same_bits(resolve("a", find).tensor, values(0))
    assert resolve(" v1.0 ", find).name == "v1.0"
    torch.testing.assert_close(resolve("a+b(3)", find).tensor, values(0) / 4 + values(1) * 0.75)
    assert "no voice 'zzz'" in message_of(resolve, "a+zzz", find)
    # A folder or a file without a suffix that happens to have the name of a voice is not meant.
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    assert resolve("a", find).name == "a" and resolve("b", find).name == "b"


def test_an_existing_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(make("af_file", 7), "a-b.pt")
    save(make("af_other", 8), "my voices (2)/a+b.npy")
    assert resolve("a-b.pt", find).name == "af_file"
    assert resolve(str(tmp_path / "a-b.pt"), find).name == "af_file"
    assert resolve("my voices (2)/a+b.npy", find).name == "af_other"
    save_archive([make("x", 1), make("y", 2)], "voices-v1.0.bin")
    assert resolve("voices-v1.0.bin:y", find).name == "y"
    (tmp_path / "notes.txt").write_text("notes")
    assert "ending in" in message_of(resolve, "notes.txt", find)


def test_files_in_a_blend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(make("af_file", 7), "mine.pt")
    save_archive([make("x", 5), make("y", 6)], "all.npz")
    mixed = resolve("mine.pt(3)+all.npz:y", find)
    torch.testing.assert_close(mixed.tensor, values(7) * 0.75 + values(6) / 4)
    assert [part["name"] for part in mixed.provenance["blend"]] == ["af_file", "y"]
    assert "no voice file gone.pt" in message_of(resolve, "mine.pt+gone.pt", find)


def test_a_path_that_is_missing_is_not_read_as_a_blend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no voice file my-voice.pt" in message_of(resolve, "my-voice.pt", find)
    assert "no voice file" in message_of(resolve, "some-folder/a", find)
    (tmp_path / "folder").mkdir()
    assert "folder" in message_of(resolve, "folder/", find)
    assert "lacks a voice name" in message_of(resolve, "  ", find)
    assert message_of(resolve, "a\0", find)
    assert message_of(resolve, "a" * 5000, find)
