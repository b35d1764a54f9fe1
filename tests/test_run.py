"""A run's folder: what survives a crash, who may use it, and what can be read out of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kvw.errors import RunError
from kvw.run import MAX_JOURNALLED_DIM, Recorded, Run, read_table

SCORED = Recorded(0.1 + 0.2, {"target": 1 / 3, "stability": 0.9, "features": 0.5})
REJECTED = Recorded(None, {"target": 0.25}, "far from the target")


def make_run(parent: Path, n: int = 3) -> Run:
    run = Run.create(parent, "speaker", {"seed": 7})
    run.set_facts({"model": {"id": "builtin", "sha256": "ab"}, "texts": {"target": {"text": "t"}}})
    for index in range(n):
        outcome = REJECTED if index % 2 else SCORED
        run.append("walk", "offset-2", np.array([[index, 1 / 3]]), [outcome], float(index))
    return run


def test_what_was_appended_is_read_back_to_the_bit(tmp_path):
    run = make_run(tmp_path)
    run.close()
    with Run.open(run.folder) as again:
        assert again.settings == {"seed": 7}
        assert again.facts["model"]["id"] == "builtin"
        assert [g.number for g in again.generations] == [0, 1, 2]
        assert again.generations[0].outcomes == (SCORED,)
        assert again.generations[1].outcomes == (REJECTED,)
        for index, generation in enumerate(again.generations):
            np.testing.assert_array_equal(generation.x, [[index, 1 / 3]])
        assert again.elapsed_s == 2.0


def test_a_journal_cut_at_any_byte_keeps_every_whole_line(tmp_path):
    run = make_run(tmp_path)
    run.close()
    journal = run.folder / "journal.jsonl"
    whole = journal.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 7):
        journal.write_bytes(whole[:cut])
        with Run.open(run.folder) as again:
            kept = sum(end <= cut for end in ends)
            assert len(again.generations) == kept
            again.append("walk", "offset-2", np.zeros((1, 2)), [SCORED], 9.0)
        with Run.open(run.folder) as again:  # the torn rest is gone from the file, too
            assert len(again.generations) == kept + 1


def test_a_line_damaged_in_the_middle_is_an_error_and_nothing_is_lost(tmp_path):
    run = make_run(tmp_path)
    run.close()
    journal = run.folder / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[0] = lines[0][:20]
    damaged = b"\n".join(lines)
    journal.write_bytes(damaged)
    with pytest.raises(RunError, match="line 1 of"):
        Run.open(run.folder)
    assert journal.read_bytes() == damaged


def test_two_runs_of_one_name_get_two_folders(tmp_path):
    runs = [Run.create(tmp_path, "speaker", {}) for _ in range(3)]
    assert [run.folder.name for run in runs] == ["speaker", "speaker_2", "speaker_3"]


def test_an_open_run_cannot_be_opened_by_another_process(tmp_path):
    run = make_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from kvw.run import Run\n"
        "from kvw.errors import RunError\n"
        "try: Run.open(Path(sys.argv[1]))\n"
        "except RunError as error: print(error)\n"
        "else: print('opened')\n"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "another process" in said
    run.close()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "opened\n"


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="journal"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="journal"):
        Run.open(tmp_path / "missing")


def test_vectors_too_long_for_a_journal_are_left_out(tmp_path):
    run = Run.create(tmp_path, "full", {})
    run.append("walk", "full", np.zeros((1, MAX_JOURNALLED_DIM + 1)), [SCORED], 0.0)
    assert (run.folder / "journal.jsonl").stat().st_size < 1000
    run.close()
    with Run.open(run.folder) as again:
        assert again.generations[0].x is None


def test_one_call_reads_all_runs_as_one_table(tmp_path):
    for _ in range(2):
        make_run(tmp_path).close()
    table = read_table(tmp_path)
    assert [(row["run"], row["generation"]) for row in table] == [
        (name, g) for name in ("speaker", "speaker_2") for g in range(3)
    ]
    first, second = table[:2]
    assert first["model"] == "builtin"
    assert first["target_text"] == "t"
    assert first["seed"] == 7
    assert first["x"] == [0.0, 1 / 3]
    assert first["total"] == SCORED.total
    assert first["stability"] == 0.9
    assert second["total"] is None
    assert second["rejected"] == "far from the target"
    assert second["target"] == 0.25


def test_the_journal_is_json_lines_that_any_tool_reads(tmp_path):
    run = make_run(tmp_path)
    lines = (run.folder / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["candidates"][0]["total"] for line in lines] == [
        SCORED.total,
        None,
        SCORED.total,
    ]
