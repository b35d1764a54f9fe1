"""Where a model and its stock voices come from.

Three sources, one result: Kokoro-82M from the hub or from a folder (through the kokoro package's
own loader), and the built-in model that is shipped in the package. Knows files and the hub; knows
nothing of speech.
"""

import difflib
import hashlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from kokoro import KModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from kvw.errors import ModelError, VoiceError
from kvw.synth.network import Network
from kvw.text import quiet_kokoro
from kvw.voice import SHAPE, Voice, load_folder, resolve

KOKORO = "kokoro-82m"
BUILTIN = "builtin"

REPOSITORY = "hexgrad/Kokoro-82M"
WEIGHTS = KModel.MODEL_NAMES[REPOSITORY]
# Where stock voices are looked for before the model's own, relative to the current folder.
VOICE_FOLDERS = {KOKORO: Path("voices/kokoro"), BUILTIN: Path("voices/builtin")}
_HERE = Path(__file__).parent
_BUILTIN_FOLDER = _HERE / "builtin"
# How long to wait for the hub's door before deciding that there is no hub: the hub's own client
# tries for over 20 s on a machine without a network.
_DOOR_S = 3.0

BUILTIN_NOTICE = (
    "Using the built-in model: small, plain speech, its voices mean nothing to Kokoro-82M. "
    "For the real one, run once with a network, or pass --model FOLDER "
    f"(holding config.json, {WEIGHTS} and voices/ of huggingface.co/{REPOSITORY})."
)


@dataclass(frozen=True)
class Model:
    """A network with what tells it apart from others.

    `id` is what voices name as the model they belong to. `sha256` is that of the weights' file.
    `voices` reads the model's own stock voices.
    """

    id: str
    network: KModel
    sha256: str
    voices: Callable[[], list[Voice]]


def kokoro_config() -> dict[str, Any]:
    """Sizes and vocabulary of Kokoro-82M v1.0, as its config.json has them."""
    config: dict[str, Any] = json.loads((_HERE / "kokoro.json").read_text(encoding="utf-8"))
    return config


def load(
    name: str, device: str = "cpu", notice: Callable[[str], None] = lambda text: None
) -> Model:
    """The model of that name, on `device`, in evaluation mode.

    Args:
        name: "kokoro" (from the hub's cache, else downloaded), "builtin", the path of a folder, or
            "auto": Kokoro where it is at hand or can be downloaded, else the built-in model.
        device: "cpu", "cuda" or "mps".
        notice: told in one sentence when "auto" fell back to the built-in model.

    Raises:
        ModelError: the model cannot be had, or its files are not a model.
    """
    with quiet_kokoro():
        model = _load(name, notice)
    model.network.to(device).eval().requires_grad_(False)
    return model


def _load(name: str, notice: Callable[[str], None]) -> Model:
    if name == BUILTIN:
        return _builtin()
    if name == "kokoro":
        return _from_hub()
    if name != "auto":
        return _from_folder(Path(name))
    try:
        return _from_hub()
    except ModelError:
        notice(BUILTIN_NOTICE)
        return _builtin()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _builtin() -> Model:
    return Model(
        BUILTIN,
        _network(_BUILTIN_FOLDER),
        _sha256(_BUILTIN_FOLDER / "model.safetensors"),
        lambda: _builtin_voices(BUILTIN),
    )


def _builtin_voices(model_id: str) -> list[Voice]:
    """The shipped styles (256,), each repeated over all rows."""
    styles = load_file(_BUILTIN_FOLDER / "voices.safetensors")
    about = json.loads((_BUILTIN_FOLDER / "voices.json").read_text(encoding="utf-8"))
    return [
        Voice(name, style.expand(SHAPE).clone(), model=model_id, provenance=about[name])
        for name, style in sorted(styles.items())
    ]


def _network(folder: Path) -> Network:
    """A network from a config.json and a model.safetensors in half or single precision."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        network = Network(config)
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict(
            {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            }
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"Expected a model in {folder}, but its config.json and model.safetensors "
            f"do not make one: {_first_line(error)}"
        ) from error
    return network


def _kokoro(config: Path, weights: Path, voices: Callable[[], list[Voice]], model_id: str) -> Model:
    try:
        network = KModel(repo_id=REPOSITORY, config=str(config), model=str(weights))
    except Exception as error:  # torch, json and the package each raise their own
        raise ModelError(
            f"Expected the weights of Kokoro in {weights} and its sizes in {config}, "
            f"but they cannot be loaded: {_first_line(error)}"
        ) from error
    return Model(model_id, network, _sha256(weights), voices)


def _from_folder(path: Path) -> Model:
    if not path.is_dir():
        raise ModelError(
            f"--model: expected auto, kokoro, builtin or a folder with a model, and {path} "
            f"{'is a file' if path.exists() else 'does not exist'}"
        )
    if not (path / "config.json").is_file():
        raise ModelError(
            f"--model: expected a folder with config.json and weights, "
            f"and {path} has no config.json"
        )

    def voices(model_id: str) -> Callable[[], list[Voice]]:
        return lambda: owned(load_folder(path / "voices"), model_id)

    if (path / "model.safetensors").is_file():
        sha256 = _sha256(path / "model.safetensors")
        if sha256 == _sha256(_BUILTIN_FOLDER / "model.safetensors"):
            return _builtin()
        model_id = f"custom-{sha256[:8]}"
        return Model(model_id, _network(path), sha256, voices(model_id))
    weights = sorted(path.glob("*.pth"))
    if len(weights) != 1:
        raise ModelError(
            f"--model: expected one .pth file or a model.safetensors in {path}, "
            f"found {len(weights)} .pth files"
        )
    # Releases of Kokoro-82M are told by their file name; a fine-tuned model has its own voices.
    own = weights[0].name == WEIGHTS
    model_id = KOKORO if own else f"custom-{_sha256(weights[0])[:8]}"
    return _kokoro(path / "config.json", weights[0], voices(model_id), model_id)


def _from_hub() -> Model:
    try:
        config, weights = (_cached(name) or _download(name) for name in ("config.json", WEIGHTS))
    except (OSError, ModelError) as error:
        raise ModelError(
            f"Kokoro-82M is neither on this machine nor to be had from {constants.ENDPOINT}: "
            f"{_first_line(error)}. Pass --model FOLDER with config.json, {WEIGHTS} and voices/, "
            "or --model builtin"
        ) from error
    return _kokoro(config, weights, _hub_voices, KOKORO)


def _hub_voices() -> list[Voice]:
    patterns = ["voices/*.pt"]
    try:
        if hub_is_reachable():
            folder = snapshot_download(REPOSITORY, allow_patterns=patterns)
        else:
            folder = snapshot_download(REPOSITORY, allow_patterns=patterns, local_files_only=True)
        return owned(load_folder(Path(folder) / "voices"), KOKORO)
    except (OSError, VoiceError) as error:
        raise ModelError(
            f"The stock voices of Kokoro-82M are neither on this machine nor to be had from "
            f"{constants.ENDPOINT}: {_first_line(error)}. Pass --voice_folder FOLDER with its "
            "voices/*.pt"
        ) from error


def _cached(name: str) -> Path | None:
    try:
        return Path(hf_hub_download(REPOSITORY, name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download(name: str) -> Path:
    if not hub_is_reachable():
        raise ModelError("no answer from there")
    return Path(hf_hub_download(REPOSITORY, name))


def hub_is_reachable() -> bool:
    """Whether something answers where the hub should be, found out within a few seconds."""
    if constants.HF_HUB_OFFLINE:
        return False
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"))
    if proxied:  # behind a proxy a direct connection says nothing
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_DOOR_S).close()
    except OSError:
        return False
    return True


def stock_voices(model: Model, folder: Path | None = None) -> list[Voice]:
    """The stock voices to start from, sorted by name.

    Those of `folder`; without one, those in the current folder's voices/kokoro or voices/builtin;
    where that holds none, the model's own.

    Raises:
        VoiceError: a file in the folder is no voice of this model, or there is none.
        ModelError: the model's own voices cannot be had.
    """
    local = VOICE_FOLDERS.get(model.id)
    if folder is None and local is not None and any(local.glob("*.pt")):
        folder = local
    return model.voices() if folder is None else owned(load_folder(folder), model.id)


def find_voice(text: str, stock: Callable[[], Sequence[Voice]]) -> Voice:
    """The voice that a path, a stock name or a blend stands for.

    `stock` gives the stock voices; it is called only where the text names one.

    Raises:
        VoiceError: no such file, name or blend.
    """

    @cache  # a blend names several
    def by_name() -> dict[str, Voice]:
        return {voice.name: voice for voice in stock()}

    def find(name: str) -> Voice:
        if name not in by_name():
            near = difflib.get_close_matches(name, by_name(), n=3) or sorted(by_name())[:3]
            raise VoiceError(
                f"Expected a voice file, a stock voice or a blend such as a(2)+b(1), got {name!r}; "
                f"stock voices are {', '.join(near)} and others"
            )
        return by_name()[name]

    return resolve(text, find)


def owned(voices: list[Voice], model_id: str) -> list[Voice]:
    """The same voices, said to belong to that model.

    Raises:
        VoiceError: one of them says that it belongs to another.
    """
    for voice in voices:
        if voice.model not in (None, model_id):
            raise VoiceError(
                f"Expected voices of the model {model_id}, but {voice.name} belongs to "
                f"{voice.model} and would speak rubbish here; use its own model or other voices"
            )
    return [Voice(v.name, v.tensor, model=model_id, provenance=v.provenance) for v in voices]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def n_parameters(network: torch.nn.Module) -> int:
    """How many parameters a network has."""
    return sum(parameter.numel() for parameter in network.parameters())
