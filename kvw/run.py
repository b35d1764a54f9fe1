"""A run: one folder that holds all that a search did, and that it can go on from.

    settings.json       the settings it works with
    run.json            what they came to: model, phonemes, target, stock voices
    journal.jsonl       one line a generation, appended and synced as it ends
    best.pt, best.wav   written by whoever knows what a candidate is

A line of the journal is written at once or not at all: after a crash a torn last line is dropped.
Knows files and records; knows nothing of what the vectors stand for.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from kvw.errors import RunError
from kvw.files import write_json
from kvw.optimizers import Outcome

Vectors = NDArray[np.float64]

# Vectors longer than this are not written into the journal (a walk through the full tensor would
# fill a disk): they follow from the seed and the outcomes before them.
MAX_JOURNALLED_DIM = 4096

_SETTINGS = "settings.json"
_FACTS = "run.json"
_JOURNAL = "journal.jsonl"
_LOCK = ".lock"


@dataclass(frozen=True)
class Recorded:
    """An outcome as the journal has it; `reason` says why it was rejected, if it was."""

    total: float | None
    parts: Mapping[str, float]
    reason: str | None = None


@dataclass(frozen=True)
class Generation:
    """One line of the journal.

    Attributes:
        number: counts all generations of the run, from 0, over its phases.
        phase: what the search was doing, such as "rank" or "walk".
        space: name of the space that the vectors belong to.
        elapsed_s: of the run so far, interruptions left out.
        x: (n, dim), or None where they were too long to write.
        outcomes: n of them.
    """

    number: int
    phase: str
    space: str
    elapsed_s: float
    x: Vectors | None
    outcomes: tuple[Recorded, ...]

    def to_line(self) -> str:
        """The journal's line, without the line's end."""
        candidates: list[dict[str, Any]] = []
        for index, outcome in enumerate(self.outcomes):
            candidates.append(
                {
                    "total": outcome.total,
                    "parts": dict(outcome.parts),
                    "rejected": outcome.reason,
                    "x": None if self.x is None else self.x[index].tolist(),
                }
            )
        return json.dumps(
            {
                "generation": self.number,
                "phase": self.phase,
                "space": self.space,
                "elapsed_s": round(self.elapsed_s, 3),
                "candidates": candidates,
            }
        )

    @classmethod
    def from_line(cls, line: str) -> Self:
        """The generation of a line.

        Raises:
            ValueError, KeyError, TypeError: the line is not a whole generation.
        """
        value = json.loads(line)
        candidates = value["candidates"]
        x = [candidate["x"] for candidate in candidates]
        return cls(
            int(value["generation"]),
            str(value["phase"]),
            str(value["space"]),
            float(value["elapsed_s"]),
            None if any(row is None for row in x) else np.array(x, dtype=np.float64),
            tuple(Recorded(c["total"], c["parts"], c["rejected"]) for c in candidates),
        )


@dataclass
class Run:
    """An open run. One process at a time has it: `create` and `open` take its lock."""

    folder: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    generations: list[Generation] = field(default_factory=list)
    _lock: FileLock | None = None

    @classmethod
    def create(cls, parent: Path, name: str, settings: dict[str, Any]) -> Self:
        """A new run in `parent/name`, or `name_2`, `name_3`, … where that is taken."""
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (name if number == 1 else f"{name}_{number}")
            try:
                folder.mkdir()  # fails where it exists: two runs at once get two folders
                break
            except FileExistsError:
                number += 1
        run = cls(folder, settings, {})
        run._take_lock()
        write_json(folder / _SETTINGS, settings)
        (folder / _JOURNAL).touch()
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """A run to go on with.

        Raises:
            RunError: it is no run, is damaged, or another process has it.
        """
        if not (folder / _JOURNAL).is_file():
            raise RunError(f"Expected the folder of a run, with a {_JOURNAL}, and got {folder}")
        run = cls(folder, _read_json(folder / _SETTINGS), _read_json(folder / _FACTS))
        run._take_lock()
        run.reload()
        return run

    def reload(self) -> None:
        """Reads the journal again, and drops a torn last line from it.

        Raises:
            RunError: another line is damaged.
        """
        journal = self.folder / _JOURNAL
        self.generations, intact = _read_journal(journal)
        if intact < journal.stat().st_size:
            os.truncate(journal, intact)

    def close(self) -> None:
        """Gives the run free."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def elapsed_s(self) -> float:
        """How long the run had worked when it last wrote."""
        return self.generations[-1].elapsed_s if self.generations else 0.0

    def of_phase(self, phase: str) -> list[Generation]:
        """The generations of a phase, in order."""
        return [generation for generation in self.generations if generation.phase == phase]

    def set_facts(self, facts: dict[str, Any]) -> None:
        """Writes what the settings came to."""
        write_json(self.folder / _FACTS, facts)
        self.facts = facts

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Writes settings that a resumed run goes on with."""
        write_json(self.folder / _SETTINGS, settings)
        self.settings = settings

    def append(
        self,
        phase: str,
        space: str,
        x: Vectors,
        outcomes: Sequence[Outcome],
        elapsed_s: float,
    ) -> Generation:
        """Writes the next generation to the journal; when this returns, it is on the disk."""
        recorded = tuple(
            Recorded(o.total, dict(o.parts), getattr(o, "reason", None)) for o in outcomes
        )
        kept = x if x.shape[1] <= MAX_JOURNALLED_DIM else None
        number = len(self.generations)
        generation = Generation(number, phase, space, elapsed_s, kept, recorded)
        with (self.folder / _JOURNAL).open("a", encoding="utf-8") as file:
            file.write(generation.to_line() + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.generations.append(generation)
        return generation

    def _take_lock(self) -> None:
        self._lock = FileLock(self.folder / _LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RunError(
                f"Expected a run that nobody works on, but another process has {self.folder}; "
                "wait for it, or stop it"
            ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"Expected the JSON that a run writes in {path}, got {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"Expected the JSON object that a run writes in {path}, got something else")
    return value


def _read_journal(path: Path) -> tuple[list[Generation], int]:
    """The whole generations of a journal, and how many bytes they take.

    Raises:
        RunError: a line before the last is damaged: more than a crash has happened to it.
    """
    content = path.read_bytes()
    generations: list[Generation] = []
    intact = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1]):  # what follows the last line's end was torn
        try:
            generation = Generation.from_line(line.decode("utf-8"))
            if generation.number != number:
                raise ValueError(f"generation {generation.number} on line {number + 1}")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 2:
                break
            raise RunError(
                f"Expected a generation on line {number + 1} of {path}, which is damaged "
                f"({error}); restore the file, or cut it before that line"
            ) from error
        generations.append(generation)
        intact += len(line) + 1
    return generations, intact


def read_table(parent: Path) -> list[dict[str, Any]]:
    """Every evaluation of every run below `parent`, one flat row each.

    `pandas.DataFrame(read_table(Path("out")))` makes a data frame of it. Columns: run, model,
    model_sha256, space, phase, generation, candidate, seed, target_text, other_text, x (a list, or
    None where it was too long to journal), total (None where rejected), rejected (why), elapsed_s,
    and one for each part of the score. Runs that are being written to are read as far as they are.
    """
    return list(_rows(parent))


def _rows(parent: Path) -> Iterator[dict[str, Any]]:
    for journal in sorted(parent.glob(f"**/{_JOURNAL}")):
        folder = journal.parent
        settings, facts = _read_json(folder / _SETTINGS), _read_json(folder / _FACTS)
        texts = facts.get("texts", {})
        common = {
            "run": str(folder.relative_to(parent)),
            "model": facts.get("model", {}).get("id"),
            "model_sha256": facts.get("model", {}).get("sha256"),
            "seed": settings.get("seed"),
            "target_text": texts.get("target", {}).get("text"),
            "other_text": texts.get("other", {}).get("text"),
        }
        for generation in _read_journal(journal)[0]:
            for index, outcome in enumerate(generation.outcomes):
                yield {
                    **common,
                    "phase": generation.phase,
                    "space": generation.space,
                    "generation": generation.number,
                    "candidate": index,
                    "elapsed_s": generation.elapsed_s,
                    "x": None if generation.x is None else generation.x[index].tolist(),
                    "total": outcome.total,
                    "rejected": outcome.reason,
                    **outcome.parts,
                }
