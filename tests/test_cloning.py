"""The main job end to end, on the built-in model, short texts and few voices."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kvw import audio, engine, voice
from kvw.cloning import ALPHAS, Observer, Result
from kvw.errors import KvwError, SettingsError, VoiceError
from kvw.run import Run, read_table
from kvw.score import Scorer
from kvw.settings import Settings
from kvw.text import Phonemes
from tests.conftest import SPEECH

TEXTS = {"target_text": "Good morning to you.", "other_text": "Rain fell in the night."}


@pytest.fixture(scope="module")
def folder(stock, tmp_path_factory) -> Path:
    """Four of the stock voices: two of women, two of men."""
    folder = tmp_path_factory.mktemp("voices")
    for one in (*stock[:2], *stock[-3:-1]):
        voice.save(one, folder / f"{one.name}.pt")
    return folder


class Impatient(Observer):
    """Presses Ctrl-C at the nth generation it sees."""

    def __init__(self, n: int):
        self.left = n

    def step(self, step):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def settings(folder: Path, **changes: object) -> Settings:
    return Settings.create(
        {
            "target_audio": SPEECH,
            "model": "builtin",
            "voice_folder": folder,
            "population_limit": 3,
            "step_limit": 6,
            **TEXTS,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory) -> Result:
    """One plain run, that many tests look at."""
    return engine.make_voice(settings(folder), out=tmp_path_factory.mktemp("out"))


def journal(run_folder: Path) -> list[dict]:
    lines = (run_folder / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) | {"elapsed_s": None} for line in lines]


def test_a_run_leaves_what_it_promises(result):
    run_folder = result.run.folder
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {
        "best.pt",
        "best.wav",
        "best.json",
        "settings.json",
        "run.json",
        "journal.jsonl",
        "summary.json",
        "target.wav",
    }
    best = voice.load(run_folder / "best.pt")
    assert best.model == "builtin"
    assert best.provenance["score"]["total"] == result.best.total
    assert best.provenance["seed"] == 0
    samples, rate = soundfile.read(run_folder / "best.wav")
    assert rate == 24_000
    assert 0.5 < len(samples) / rate < 6
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["after"]["total"] >= summary["before"]["total"]
    assert summary["steps"] == 6
    assert (result.n_steps, result.ended) == (6, "step limit")


def test_the_best_voice_scores_what_the_run_says(result, synthesizer, encoder):
    """Loaded from its file, spoken and scored anew."""
    best = voice.load(result.run.folder / "best.pt")
    scorer = Scorer(audio.load(result.run.folder / "target.wav").audio, encoder)
    texts = json.loads((result.run.folder / "run.json").read_text())["texts"]
    spoken = [
        synthesizer.speak(
            best.tensor[None], synthesizer.prepare(Phonemes.from_dict(texts[which])), seed=0
        )[0]
        for which in ("target", "other")
    ]
    score = scorer.score(spoken[0], *(scorer.embed(one) for one in spoken))
    assert score.total == pytest.approx(result.best.total, abs=1e-3)
    written, _ = soundfile.read(result.run.folder / "best.wav")
    np.testing.assert_allclose(written, spoken[0], atol=2 / 32768)


def test_the_walk_starts_from_the_best_of_mean_and_single_voices(result):
    lines = journal(result.run.folder)
    before = [line for line in lines if line["phase"] in ("rank", "mean")]
    totals = [c["total"] for line in before for c in line["candidates"] if c["total"] is not None]
    assert result.start.total == max(totals)
    assert [line["phase"] for line in lines] == ["rank"] * 4 + ["mean"] + ["walk"] * 6
    [mean] = [line["candidates"][0]["x"] for line in lines if line["phase"] == "mean"]
    assert sorted(mean) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_a_candidate_far_from_the_target_is_rejected_with_its_reason(result):
    """0.98 of the best one's target similarity, as KVoiceWalk does."""
    best = -np.inf
    bar = 0.0
    n_rejected = 0
    for line in journal(result.run.folder):
        [candidate] = line["candidates"]
        if candidate["total"] is None:
            n_rejected += 1
            assert candidate["rejected"] == "far from the target"
            assert candidate["parts"]["target"] < bar
        else:
            assert candidate["parts"]["target"] >= bar
            if candidate["total"] > best:
                best, bar = candidate["total"], 0.98 * candidate["parts"]["target"]
    assert n_rejected > 0


def test_the_same_seed_makes_the_same_run_and_another_seed_another(result, folder, tmp_path):
    again = engine.make_voice(settings(folder), out=tmp_path)
    assert journal(again.run.folder) == journal(result.run.folder)
    other = engine.make_voice(settings(folder, seed=1), out=tmp_path)
    assert journal(other.run.folder) != journal(result.run.folder)
    assert other.run.folder.name == "target_2"


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(result, folder, tmp_path):
    first = engine.make_voice(settings(folder), Impatient(2), out=tmp_path)
    assert first.ended == "interrupted"
    assert (first.run.folder / "best.pt").is_file()
    second = engine.resume_voice(first.run.folder, {}, Impatient(8))
    assert second.ended == "interrupted"
    third = engine.resume_voice(first.run.folder, {})
    assert third.ended == "step limit"
    assert journal(first.run.folder) == journal(result.run.folder)
    ours, theirs = (voice.load(f / "best.pt") for f in (first.run.folder, result.run.folder))
    assert torch.equal(ours.tensor, theirs.tensor)
    assert (third.n_steps, third.n_accepted) == (result.n_steps, result.n_accepted)


def test_what_is_in_the_journal_counts_when_an_interruption_comes_right_after_it(
    folder, tmp_path, monkeypatch
):
    """The worst moment: the line is on the disk, and nobody has been told of it."""
    append = Run.append

    def append_and_stop(self, *arguments):
        append(self, *arguments)
        if len(self.generations) == 1:  # the first candidate is the best so far
            self.generations.pop()
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "append", append_and_stop)
    made = engine.make_voice(settings(folder), out=tmp_path)
    assert made.ended == "interrupted"
    assert made.n_evaluations == 1
    best = voice.load(made.run.folder / "best.pt")
    [line] = journal(made.run.folder)
    assert best.provenance["score"]["total"] == line["candidates"][0]["total"]


def test_an_observer_may_end_a_run(folder, tmp_path):
    class Bored(Observer):
        n_seen = 0

        def step(self, step):
            self.n_seen += 1

        def wants_to_stop(self):
            return self.n_seen >= 3

    made = engine.make_voice(settings(folder), Bored(), out=tmp_path)
    assert made.ended == "interrupted"
    assert made.n_evaluations == 3


def test_a_finished_run_goes_on_with_a_higher_limit_and_only_with_that(folder, tmp_path):
    run_folder = engine.make_voice(settings(folder, step_limit=2), out=tmp_path).run.folder
    more = engine.resume_voice(run_folder, {"step_limit": 4})
    assert more.n_steps == 4
    with pytest.raises(SettingsError, match="--seed would change"):
        engine.resume_voice(run_folder, {"seed": 5})
    # The new limit is the run's own from then on.
    assert engine.resume_voice(run_folder, {}).n_steps == 4


def test_one_stock_voice_has_no_directions_to_search_in(tmp_path, stock):
    voice.save(stock[0], tmp_path / "one" / "af_one.pt")
    with pytest.raises(VoiceError, match="at least two stock voices"):
        engine.make_voice(settings(tmp_path / "one"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_resumed_with_other_stock_voices(folder, tmp_path, stock):
    own = tmp_path / "voices"
    for one in stock[:3]:
        voice.save(one, own / f"{one.name}.pt")
    made = engine.make_voice(settings(own, step_limit=1), out=tmp_path / "out")
    voice.save(stock[5], own / f"{stock[5].name}.pt")
    with pytest.raises(KvwError, match="stock voices"):
        engine.resume_voice(made.run.folder, {})


def test_interpolation_scores_no_voice_twice_and_its_files_can_be_made_again(
    folder, tmp_path, stock
):
    made = engine.make_voice(
        settings(folder, interpolate_start=True, population_limit=2, step_limit=1), out=tmp_path
    )
    lines = journal(made.run.folder)
    mixtures = [
        tuple(np.round(line["candidates"][0]["x"], 6)) for line in lines if line["phase"] != "walk"
    ]
    assert len(set(mixtures)) == len(mixtures)
    # One pair: the grid without the two voices themselves. Its midpoint is the mean of the two.
    assert sum(line["phase"] == "interpolate" for line in lines) == len(ALPHAS) - 2
    files = list((made.run.folder / "interpolated").glob("*.pt"))
    assert len(files) == 1
    kept = voice.load(files[0])
    by_name = {one.name: one.tensor.double() for one in stock}
    a, b = (by_name[name] for name in kept.provenance["voices"])
    alpha = kept.provenance["alpha"]
    expected = (a + b) / 2 + alpha * (b - a) / 2
    torch.testing.assert_close(kept.tensor.double(), expected, rtol=0, atol=1e-6)
    sign = "m" if alpha < 0 else "p"
    names = "_to_".join(kept.provenance["voices"])
    assert kept.name == f"{names}_{sign}{abs(round(alpha * 10)):02d}"
    totals = [
        line["candidates"][0]["total"]
        for line in lines
        if line["phase"] == "interpolate" and line["candidates"][0]["total"] is not None
    ]
    assert kept.provenance["score"]["total"] == max(totals)


def test_an_interpolation_is_resumed_where_it_was(folder, tmp_path):
    same = settings(folder, interpolate_start=True, population_limit=3, step_limit=2)
    whole = engine.make_voice(same, out=tmp_path)
    parts = engine.make_voice(same, Impatient(20), out=tmp_path)
    assert parts.ended == "interrupted"
    engine.resume_voice(parts.run.folder, {}, Impatient(60))
    engine.resume_voice(parts.run.folder, {})
    assert journal(parts.run.folder) == journal(whole.run.folder)
    kept = [
        sorted(path.name for path in (one.run.folder / "interpolated").iterdir())
        for one in (parts, whole)
    ]
    assert kept[0] == kept[1]


def test_the_alphas_are_kvoicewalks():
    assert len(ALPHAS) == 31
    assert (ALPHAS[0], ALPHAS[-1]) == (-1.5, 1.5)
    assert all(b - a == pytest.approx(0.1) for a, b in itertools.pairwise(ALPHAS))


def test_a_starting_voice_is_where_the_walk_starts(folder, tmp_path, stock):
    blend = f"{stock[0].name}(3)+{stock[1].name}(1)"
    made = engine.make_voice(settings(folder, starting_voice=blend, step_limit=2), out=tmp_path)
    phases = [line["phase"] for line in journal(made.run.folder)]
    assert phases == ["start", "walk", "walk"]
    start = voice.load(made.run.folder / "start.pt")
    torch.testing.assert_close(start.tensor, (3 * stock[0].tensor + stock[1].tensor) / 4)
    assert (made.best.total or 0) >= (made.start.total or 100)


def test_the_full_space_walks_with_the_populations_deviation(folder, tmp_path, stock):
    made = engine.make_voice(
        settings(folder, space="full", keep="improvements", step_limit=12), out=tmp_path
    )
    lines = journal(made.run.folder)
    walk = [line for line in lines if line["phase"] == "walk"]
    assert len(walk) == 12
    assert all(line["candidates"][0]["x"] is None for line in walk)
    resumed = engine.resume_voice(made.run.folder, {"step_limit": 13})
    assert resumed.n_steps == 13


def test_every_improvement_is_kept_where_asked(folder, tmp_path):
    made = engine.make_voice(settings(folder, keep="improvements", step_limit=25), out=tmp_path)
    kept = sorted((made.run.folder / "improvements").glob("*.pt"))
    assert made.n_accepted > 0
    assert len(kept) == made.n_accepted
    totals = [voice.load(path).provenance["score"]["total"] for path in kept]
    assert totals == sorted(totals)
    assert totals[-1] == made.best.total
    assert all(path.with_suffix(".wav").is_file() for path in kept)


def test_a_time_limit_ends_a_run_with_a_voice(folder, tmp_path):
    made = engine.make_voice(settings(folder, time_limit=0.01, step_limit=10_000), out=tmp_path)
    assert made.ended == "time limit"
    assert len(made.run.generations) == 1
    assert (made.run.folder / "best.pt").is_file()


def test_one_table_holds_every_evaluation(result):
    table = read_table(result.run.folder.parent)
    ours = [row for row in table if row["run"] == result.run.folder.name]
    assert len(ours) == result.n_evaluations == 11
    assert {row["space"] for row in ours} == {"mixture-4", "offset-3"}
    assert all(len(row["x"]) == (3 if row["phase"] == "walk" else 4) for row in ours)
    assert {row["model"] for row in ours} == {"builtin"}
    assert {row["target_text"] for row in ours} == {TEXTS["target_text"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"target_audio": "missing.wav"},
        {"target_text": "missing.txt"},
        {"other_text": "…"},
        {"starting_voice": "nobody"},
        {"lang_code": "q"},
        {"model": "missing"},
        {"voice_folder": "missing"},
        {"starting_voice": "af_32", "interpolate_start": True},
    ],
)
def test_what_cannot_be_used_leaves_no_run_behind(folder, tmp_path, changes):
    with pytest.raises(KvwError) as caught:
        engine.make_voice(settings(folder, **changes), out=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_voices_of_another_model_are_refused_as_stock_and_as_start(folder, tmp_path, stock):
    foreign = voice.Voice("af_foreign", stock[0].tensor, "kokoro-82m")
    voice.save(foreign, tmp_path / "foreign" / "af_foreign.pt")
    for changes in (
        {"voice_folder": tmp_path / "foreign"},
        {"starting_voice": str(tmp_path / "foreign" / "af_foreign.pt")},
    ):
        with pytest.raises(VoiceError, match="would speak rubbish"):
            engine.make_voice(settings(folder, **changes), out=tmp_path / "out")


def test_the_run_says_where_its_text_came_from(folder, tmp_path):
    class Heard(Observer):
        def __init__(self):
            self.notices: list[str] = []

        def notice(self, message):
            self.notices.append(message)

    recording = tmp_path / "speaker.wav"
    recording.write_bytes(SPEECH.read_bytes())
    plain = settings(folder, target_audio=recording, target_text=None, step_limit=0)

    def text_of(observer: Observer) -> str:
        made = engine.make_voice(plain, observer, out=tmp_path / "out")
        return Run.open(made.run.folder).facts["texts"]["target"]["text"]

    without = Heard()
    assert "lighthouse" in text_of(without)
    assert any("default text" in notice for notice in without.notices)
    recording.with_suffix(".txt").write_text("Good evening.\n")
    beside = Heard()
    assert text_of(beside) == "Good evening."
    assert any("speaker.txt" in notice for notice in beside.notices)
