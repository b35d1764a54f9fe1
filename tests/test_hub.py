"""Kokoro-82M from a hub: the real client, against a small hub on this machine.

The hub serves a full-size network with random weights under the names of the real one.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

from kvw import voice
from kvw.synth import models
from kvw.synth.network import random_network
from kvw.voice import SHAPE, Voice

COMMIT = "0" * 40
LOAD = """
from kvw.synth import models
model = models.load({name!r}, notice=print)
print(model.id, len(model.voices()), {{v.model for v in model.voices()}})
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder with the files of hexgrad/Kokoro-82M, weights random."""
    folder = tmp_path_factory.mktemp("published")
    config = models.kokoro_config()
    (folder / "config.json").write_text(json.dumps(config))
    network = random_network(config)
    weights = {name: child.state_dict() for name, child in network.named_children()}
    torch.save(weights, folder / models.WEIGHTS)
    (folder / "voices").mkdir()
    generator = torch.Generator().manual_seed(0)
    for name in ("af_one", "am_two"):
        tensor = 0.2 * torch.randn(SHAPE, generator=generator)
        torch.save(Voice(name, tensor).tensor, folder / "voices" / f"{name}.pt")
    return folder


class Hub:
    """As much of the hub's protocol as a download needs."""

    def __init__(self, folder: Path):
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(path)
                names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
                if path.startswith("/api/models/") and "/tree/" in path:
                    listing = [
                        {"type": "file", "path": n, "oid": n, "size": (folder / n).stat().st_size}
                        for n in names
                    ]
                    self._send(json.dumps(listing).encode(), body, "application/json")
                elif path.startswith("/api/models/"):
                    info = {
                        "id": models.REPOSITORY,
                        "modelId": models.REPOSITORY,
                        "sha": COMMIT,
                        "siblings": [{"rfilename": n} for n in names],
                    }
                    self._send(json.dumps(info).encode(), body, "application/json")
                elif "/resolve/" in path:
                    name = path.split("/resolve/")[1].partition("/")[2]
                    self._send((folder / name).read_bytes(), body, "application/octet-stream")
                else:
                    self.send_error(404)

            def _send(self, content: bytes, body: bool, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def load(name: str, address: str, cache: Path) -> str:
    """Loads a model in a process of its own, whose hub and cache are these."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD.format(name=name)],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"},
        cwd=cache,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.slow
def test_kokoro_is_downloaded_once_and_then_found_without_the_hub(published, tmp_path):
    hub = Hub(published)
    try:
        assert load("auto", hub.address, tmp_path) == "kokoro-82m 2 {'kokoro-82m'}"
        n_asked = len(hub.asked)
        assert any(path.endswith(models.WEIGHTS) for path in hub.asked)
        load("kokoro", hub.address, tmp_path)
        again = hub.asked[n_asked:]
        assert not any(path.endswith(models.WEIGHTS) for path in again)
    finally:
        hub.close()
    assert load("kokoro", hub.address, tmp_path) == "kokoro-82m 2 {'kokoro-82m'}"


def test_without_a_hub_auto_takes_the_built_in_model(tmp_path):
    """Nobody listens on the discard port."""
    said = load("auto", "http://127.0.0.1:9", tmp_path).splitlines()
    assert said == [models.BUILTIN_NOTICE, "builtin 28 {'builtin'}"]


@pytest.mark.slow
def test_a_voice_made_at_full_size_loads_in_kokoros_own_pipeline(published, tmp_path):
    """The main job on Kokoro's files: what a machine with the real weights does."""
    speech = Path(__file__).parent.parent / "example" / "target.wav"
    run = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).parent.parent / "main.py")),
            *("--target_audio", str(speech), "--model", str(published)),
            *("--target_text", "Good morning.", "--other_text", "It rains."),
            *("--step_limit", "1", "--output_name", "full"),
        ],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    best = tmp_path / "out" / "full" / "best.pt"
    assert voice.load(best).model == models.KOKORO
    from kokoro import KPipeline

    pipeline = object.__new__(KPipeline)
    pipeline.voices = {}
    assert tuple(pipeline.load_voice(str(best)).shape) == SHAPE
