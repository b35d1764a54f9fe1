"""The command line as a user meets it: help, bad input, signals, files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kvw import voice
from kvw.cli import main
from kvw.voice import Voice
from tests.conftest import ROOT, SPEECH

FAST = ["--model", "builtin", "--target_text", "Good morning.", "--other_text", "It rains."]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(stock, tmp_path_factory) -> Path:
    """Three stock voices."""
    folder = tmp_path_factory.mktemp("voices")
    for one in stock[:3]:
        voice.save(one, folder / f"{one.name}.pt")
    return folder


def kvw(*arguments: object) -> int:
    """Runs the command line in this process; gives its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *(str(argument) for argument in arguments)]


def test_help_takes_less_than_a_second_fits_80_columns_and_shows_each_mode():
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    subprocess.run(command("--help"), capture_output=True, check=True, env=environment)  # warm
    started = time.monotonic()
    run = subprocess.run(
        command("--help"), capture_output=True, text=True, check=True, env=environment
    )
    assert time.monotonic() - started < 2.5  # a second on an idle machine
    assert max(len(line) for line in run.stdout.splitlines()) <= 80
    for flag in ("--target_audio", "--test_voice", "--resume", "--export_bin", "--transcribe_many"):
        assert f"main.py {flag}" in run.stdout  # an example


def test_the_command_line_does_not_import_torch():
    code = "import sys, kvw.cli; print(sorted({'torch', 'numpy', 'kokoro'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_main_job_in_plain_lines(folder, capfd, stock):
    assert kvw("--target_audio", SPEECH, "--voice_folder", folder, "--step_limit", 3, *FAST) == 0
    said = capfd.readouterr().out
    out = Path("out/target")
    assert (out / "best.pt").is_file()
    assert "rank 1/3: " in said
    assert f"--test_voice {out / 'best.pt'}" in said
    assert "built-in model" in said
    assert "\x1b" not in said
    # The audition that it names works.
    assert kvw("--test_voice", out / "best.pt", "--target_text", "Any text you like.") == 0
    assert Path("out.wav").stat().st_size > 10_000


def test_dashes_work_as_well_as_underscores(folder):
    arguments = ["--target-audio", SPEECH, "--voice-folder", folder, "--step-limit", 0]
    assert kvw(*arguments, "--output-name", "dashes", *FAST) == 0
    assert Path("out/dashes/best.pt").is_file()


def test_a_config_file_is_read_and_flags_win(folder):
    Path("mine.toml").write_text(
        f'target_audio = "{SPEECH}"\nmodel = "builtin"\nvoice_folder = "{folder}"\n'
        'target_text = "Good morning."\nother_text = "It rains."\nstep_limit = 2\n'
        'output_name = "mine"\n'
    )
    assert kvw("--config", "mine.toml", "--step_limit", 0) == 0
    settings = json.loads(Path("out/mine/settings.json").read_text())
    assert (settings["step_limit"], settings["model"]) == (0, "builtin")
    # A run's own settings make the same run again.
    assert kvw("--config", "out/mine/settings.json") == 0
    first, second = (
        [line["candidates"] for line in journal(Path(run, "journal.jsonl"))]
        for run in ("out/mine", "out/mine_2")
    )
    assert first == second


def test_a_voice_is_spoken_by_name_and_by_blend(stock):
    a, b = stock[0].name, stock[1].name
    text = ["--target_text", "Good morning.", "--model", "builtin"]
    assert kvw("--test_voice", a, "--output_name", "one", *text) == 0
    assert kvw("--test_voice", f"{a}(2)+{b}(1)", "--output_name", "two.wav", *text) == 0
    assert Path("one.wav").read_bytes() != Path("two.wav").read_bytes()


def test_voices_are_exported_for_kokoro_onnx(folder, stock):
    assert kvw("--export_bin", "--voice_folder", folder, "--output_name", "mine") == 0
    with np.load("mine.bin") as archive:  # what kokoro-onnx does
        assert sorted(archive.files) == [one.name for one in stock[:3]]
        for one in stock[:3]:
            np.testing.assert_array_equal(archive[one.name], one.tensor.numpy())


MISTAKES = [
    (["--target_audio", "missing.wav"], "missing.wav"),
    (["--target_audio", "."], "."),
    (["--target_audio", "empty.wav"], "empty"),
    (["--target_audio", "text.wav"], "text.wav"),
    (["--target_audio", SPEECH, "--target_text", "missing.txt"], "missing.txt"),
    (["--target_audio", SPEECH, "--target_text", ""], "text"),
    (["--target_audio", SPEECH, "--other_text", "missing.txt"], "missing.txt"),
    (["--target_audio", SPEECH, "--voice_folder", "missing"], "missing"),
    (["--target_audio", SPEECH, "--voice_folder", "."], "no voice"),
    (["--target_audio", SPEECH, "--starting_voice", "nobody"], "nobody"),
    (["--target_audio", SPEECH, "--starting_voice", "missing.pt"], "missing.pt"),
    (["--target_audio", SPEECH, "--population_limit", "0"], "population_limit"),
    (["--target_audio", SPEECH, "--step_limit", "-1"], "step_limit"),
    (["--target_audio", SPEECH, "--step_limit", "x"], "step_limit"),
    (["--target_audio", SPEECH, "--time_limit", "0"], "time_limit"),
    (["--target_audio", SPEECH, "--time_limit", "nan"], "time_limit"),
    (["--target_audio", SPEECH, "--components", "0"], "components"),
    (["--target_audio", SPEECH, "--weights", "1,2"], "weights"),
    (["--target_audio", SPEECH, "--weights", "0,0,0"], "weights"),
    (["--target_audio", SPEECH, "--space", "outer"], "space"),
    (["--target_audio", SPEECH, "--seed", "-3"], "seed"),
    (["--target_audio", SPEECH, "--keep", "all"], "keep"),
    (["--target_audio", SPEECH, "--device", "tpu"], "device"),
    (["--target_audio", SPEECH, "--lang_code", "q"], "q"),
    (["--target_audio", SPEECH, "--model", "missing"], "missing"),
    (["--target_audio", SPEECH, "--output_name", " "], "output_name"),
    (["--target_audio", SPEECH, "--config", "missing.toml"], "missing.toml"),
    (["--target_audio", SPEECH, "--config", "text.wav"], "text.wav"),
    (["--target_audio", SPEECH, "--test_voice", "af"], "--test_voice"),
    (["--resume", "missing"], "missing"),
    (["--resume", "."], "journal"),
    (["--resume", "missing", "--config", "empty.wav"], "--config"),
    (["--test_voice", "nobody", "--model", "builtin"], "nobody"),
    (["--test_voice", "a(+b", "--model", "builtin"], "blend"),
    (["--test_voice", "missing.pt"], "missing.pt"),
    (["--export_bin", "--voice_folder", "missing"], "missing"),
    (["--transcribe_many", "missing"], "missing"),
    (["--interpolate_start"], "something to do"),
    (["--no_such_flag"], "no_such_flag"),
]
if not torch.cuda.is_available():
    MISTAKES.append((["--target_audio", SPEECH, "--device", "cuda"], "cuda"))


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: str(value)[-60:])
def test_bad_input_is_one_clear_sentence_and_exit_code_2(arguments, said, capfd):
    Path("empty.wav").touch()
    Path("text.wav").write_text("not audio")
    if "--model" not in arguments:
        arguments = [*arguments, "--model", "builtin"] if "--resume" not in arguments else arguments
    assert kvw(*arguments) == 2
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not Path("out").exists()


def test_a_voice_is_spoken_by_its_own_model_and_no_other(stock, capfd):
    voice.save(stock[0], Path("mine.pt"))
    assert kvw("--test_voice", "mine.pt", "--target_text", "Hello.") == 0
    assert "model builtin" in capfd.readouterr().out
    voice.save(Voice("theirs", stock[0].tensor, "kokoro-82m"), Path("theirs.pt"))
    assert kvw("--test_voice", "theirs.pt", "--model", "builtin") == 2
    assert "would speak rubbish" in capfd.readouterr().err
    torch.save(stock[0].tensor.clone(), "bare.pt")
    assert kvw("--test_voice", "bare.pt", "--model", "builtin", "--target_text", "Hello.") == 0


def start(folder: Path, name: str, n_steps: int, *more: object) -> subprocess.Popen:
    arguments = ["--target_audio", SPEECH, "--voice_folder", folder, "--output_name", name]
    return launch(*arguments, "--step_limit", n_steps, *FAST, *more)


def launch(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(journal: Path, n: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if journal.is_file() and journal.read_bytes().count(b"\n") >= n:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{journal} never had {n} lines")


def journal(path: Path) -> list[dict]:
    return [json.loads(line) | {"elapsed_s": 0} for line in path.read_text().splitlines()]


def test_killed_and_resumed_equals_never_killed(folder):
    """SIGKILL in the ranking and in the walk of the real command."""
    killed, whole = Path("out/killed"), Path("out/whole")
    with start(folder, "killed", 12) as process:
        wait_for_lines(killed / "journal.jsonl", 2, process)
        process.kill()
    for n_lines in (7, 10):
        with launch("--resume", killed) as process:
            wait_for_lines(killed / "journal.jsonl", n_lines, process)
            process.kill()
    with launch("--resume", killed) as process:
        process.communicate()
        assert process.returncode == 0
    with start(folder, "whole", 12) as process:
        process.communicate()
        assert process.returncode == 0
    assert journal(killed / "journal.jsonl") == journal(whole / "journal.jsonl")
    assert (killed / "best.wav").read_bytes() == (whole / "best.wav").read_bytes()
    ours, theirs = (voice.load(path / "best.pt") for path in (killed, whole))
    assert torch.equal(ours.tensor, theirs.tensor)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("n_signals", [1, 2])
def test_ctrl_c_ends_a_run_with_its_best_voice_saved(folder, how, n_signals):
    """Once lets the candidate under way finish, twice drops it; what is in the journal counts."""
    out = Path("out/stopped")
    # A long text: the second signal comes while its candidate is under way.
    with start(
        folder, "stopped", 100_000, "--target_text", 5 * "Good morning to you all. "
    ) as process:
        wait_for_lines(out / "journal.jsonl", 6, process)
        for _ in range(n_signals):
            process.send_signal(how)
            time.sleep(0.05)
        said, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "Ending after this candidate; again to drop it.\n"
    assert "interrupted" in said
    assert f"--resume {out}" in said
    best = voice.load(out / "best.pt")
    totals = [line["candidates"][0]["total"] for line in journal(out / "journal.jsonl")]
    assert best.provenance["score"]["total"] == max(t for t in totals if t is not None)
    assert json.loads((out / "summary.json").read_text())["ended"] == "interrupted"


def test_ctrl_c_before_the_search_leaves_at_once(folder):
    with start(folder, "early", 1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Loading …\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "Interrupted.\n"
