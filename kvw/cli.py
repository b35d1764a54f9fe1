"""The command line: flags to settings, events to a terminal, errors to exit codes.

Thin: all work is in `kvw.engine`, which is imported when there is work to do, since it takes
seconds and `--help` should not. Exit codes: 0 done, 2 what was given cannot be used, 130
interrupted (the best voice so far is saved).
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from kvw.errors import KvwError, SettingsError
from kvw.settings import Device, Keep, Settings, SpaceName, read

if TYPE_CHECKING:
    from kvw.cloning import Result
    from kvw.optimizers import Outcome
    from kvw.search import Clock, Step

_EXAMPLES = """
Makes new voices for Kokoro from a recording of a speaker.

\b
A voice from a recording, in two minutes:
  {command} --target_audio example/target.wav --time_limit 120
A better start, by searching between the stock voices first:
  {command} --target_audio example/target.wav --interpolate_start
Hear a voice, a stock voice, or a blend:
  {command} --test_voice out/target/best.pt --target_text "Good morning."
  {command} --test_voice "af_bella(2)+af_sky(1)" --target_text lines.txt
Go on with a run that was interrupted, or was too short:
  {command} --resume out/target --step_limit 20000
All voices of a folder as one file for kokoro-onnx:
  {command} --export_bin --voice_folder voices/kokoro
What is said in recordings (needs the transcription extra):
  {command} --transcribe_many recordings/
"""

_MODES = "What to do (choose one)"
_TARGET = "The target and its texts"
_SEARCH = "The search"
_MODEL = "Model and voices"
_OUTPUT = "Output"

_INTERRUPTED = 130


def _command() -> str:
    """How this program was called, for examples that can be copied."""
    return "uv run main.py" if Path(sys.argv[0]).name == "main.py" else "kvw"


def _default(name: str) -> str:
    return f"(default: {Settings.model_fields[name].default})"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command(
    help=_EXAMPLES.format(command=_command()),
    context_settings={
        # Dashes work as well as underscores.
        "token_normalize_func": lambda token: token.replace("-", "_"),
        "help_option_names": ["--help", "-h"],
        "max_content_width": 100,
    },
    no_args_is_help=True,
)
def _run(
    target_audio: Annotated[
        Path | None,
        typer.Option(
            "--target_audio",
            help="Make a voice from this recording; 20 to 30 s of one speaker is ideal.",
            rich_help_panel=_MODES,
        ),
    ] = None,
    test_voice: Annotated[
        str | None,
        typer.Option(
            "--test_voice",
            help="Speak --target_text with a voice: a file, a stock name, or a blend.",
            rich_help_panel=_MODES,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with this run.", rich_help_panel=_MODES),
    ] = None,
    export_bin: Annotated[
        bool,
        typer.Option(
            "--export_bin", help="Write all voices as one kokoro-onnx file.", rich_help_panel=_MODES
        ),
    ] = False,
    transcribe_many: Annotated[
        Path | None,
        typer.Option(
            "--transcribe_many",
            help="Write a .txt beside this recording, or beside all of a folder.",
            rich_help_panel=_MODES,
        ),
    ] = None,
    target_text: Annotated[
        str | None,
        typer.Option(
            "--target_text",
            help="What the recording says, or a .txt file with it. Left out: a .txt beside the "
            "recording, a transcription, or a default text.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    other_text: Annotated[
        str | None,
        typer.Option(
            "--other_text",
            help="A second text, or a .txt file: a voice must sound the same on both.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    transcribe_start: Annotated[
        bool | None,
        typer.Option(
            "--transcribe_start",
            help="Transcribe the recording and use that as --target_text.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    lang_code: Annotated[
        str | None,
        typer.Option(
            "--lang_code",
            help="Kokoro's letter for the language: a American, b British, e, f, h, i, j, p, z. "
            + _default("lang_code"),
            rich_help_panel=_TARGET,
        ),
    ] = None,
    interpolate_start: Annotated[
        bool | None,
        typer.Option(
            "--interpolate_start",
            help="Search between the best stock voices before the walk.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    starting_voice: Annotated[
        str | None,
        typer.Option(
            "--starting_voice",
            help="Start from this voice (file, stock name or blend) instead of the best found.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    population_limit: Annotated[
        int | None,
        typer.Option(
            "--population_limit",
            help="How many of the best stock voices to build on. " + _default("population_limit"),
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    step_limit: Annotated[
        int | None,
        typer.Option(
            "--step_limit",
            help="End after this many steps of the walk, earlier ones of a resumed run included. "
            + _default("step_limit"),
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time_limit",
            help="End after this many seconds, those of a resumed run before it included. "
            "(default: none)",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    space: Annotated[
        SpaceName | None,
        typer.Option(
            "--space",
            help="What the walk moves: one offset shared by all rows, or every number by itself "
            "(as KVoiceWalk). " + _default("space"),
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            "--components",
            help="Dimensions of the offset: principal components of the stock voices. "
            + _default("components"),
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Weights of target, self and feature similarity in the score. "
            "(default: 0.48,0.50,0.02)",
            metavar="T,S,F",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="The same seed gives the same run. " + _default("seed"),
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="auto, kokoro (Kokoro-82M, downloaded on first use), builtin, or a folder. "
            + _default("model"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    voice_folder: Annotated[
        Path | None,
        typer.Option(
            "--voice_folder",
            help="Stock voices to start from. (default: the model's own)",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            "--device",
            help="Where to compute; auto takes CUDA if there is one. " + _default("device"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option(
            "--output_name",
            help="Name of the run below out/ (of the file, for --test_voice and --export_bin).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    keep: Annotated[
        Keep | None,
        typer.Option(
            "--keep",
            help="Keep the best voice only, or audio and tensor of every improvement. "
            + _default("keep"),
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings from a TOML file, or from a run's settings.json; flags win over it.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
) -> None:
    flags: dict[str, Any] = {
        "target_audio": target_audio,
        "target_text": target_text,
        "other_text": other_text,
        "transcribe_start": transcribe_start,
        "lang_code": lang_code,
        "interpolate_start": interpolate_start,
        "starting_voice": starting_voice,
        "population_limit": population_limit,
        "step_limit": step_limit,
        "time_limit": time_limit,
        "space": space,
        "components": components,
        "weights": None if weights is None else _weights(weights),
        "seed": seed,
        "model": model,
        "voice_folder": voice_folder,
        "device": device,
        "output_name": output_name,
        "keep": keep,
    }
    modes = {
        "--target_audio": target_audio,
        "--test_voice": test_voice,
        "--resume": resume,
        "--export_bin": export_bin or None,
        "--transcribe_many": transcribe_many,
    }
    asked = [name for name, value in modes.items() if value is not None]
    if len(asked) > 1:
        raise SettingsError(f"Expected one thing to do, got {' and '.join(asked)}; choose one")
    file = {} if config is None else read(config)
    if not asked and "target_audio" not in file:
        raise SettingsError(
            f"Expected something to do: one of {', '.join(modes)}; --help shows an example of each"
        )
    if resume is not None:
        if config is not None:
            raise SettingsError(
                "--resume takes the settings of the run itself; leave --config out, or start anew"
            )
        changes = {name: value for name, value in flags.items() if value is not None}
        _resume(resume, changes)
        return
    settings = Settings.create(file, flags)
    if test_voice is not None:
        _speak(settings, test_voice)
    elif export_bin:
        _export(settings)
    elif transcribe_many is not None:
        _transcribe(transcribe_many, settings)
    else:
        _make(settings)


def _weights(value: str) -> tuple[float, ...]:
    try:
        target, stability, features = (float(part) for part in value.split(","))
    except ValueError as error:
        raise SettingsError(
            f"--weights: expected three numbers such as 0.48,0.50,0.02, got {value!r}"
        ) from error
    return target, stability, features


# The modes. Each imports the engine by itself, while the terminal says that it is loading.


def _make(settings: Settings) -> None:
    with _interrupts() as interrupts:
        with _observer(interrupts) as observer:
            from kvw import engine

            result = engine.make_voice(settings, observer)
        _report(result)


def _resume(folder: Path, changes: dict[str, Any]) -> None:
    with _interrupts() as interrupts:
        with _observer(interrupts) as observer:
            from kvw import engine

            result = engine.resume_voice(folder, changes, observer)
        _report(result)


def _speak(settings: Settings, test_voice: str) -> None:
    with _interrupts() as interrupts, _observer(interrupts) as observer:
        from kvw import engine

        spoken = engine.speak(settings, test_voice, observer)
    typer.echo(f"Wrote {spoken.path}: {spoken.duration_s:.1f} s, model {spoken.model_id}.")


def _export(settings: Settings) -> None:
    from kvw import engine

    path, n_voices = engine.export_bin(settings)
    typer.echo(f"Wrote {path}: {n_voices} voices for kokoro-onnx.")


def _transcribe(path: Path, settings: Settings) -> None:
    with _interrupts() as interrupts, _observer(interrupts) as observer:
        from kvw import engine

        written = engine.transcribe_many(path, settings.lang_code, observer)
    typer.echo(f"Wrote {len(written)} texts.")


def _report(result: "Result") -> None:
    """The end of a run, for a person."""
    from kvw.cloning import audition

    folder, command = result.run.folder, _command()
    start, best = result.start, result.best
    rows = [
        ("Voice", f"{folder / 'best.pt'} (for the model {result.model_id})"),
        ("Hear it", str(folder / "best.wav")),
        ("Before", f"{_score(start)}  {result.start_name}"),
        ("After", _score(best)),
        (
            "Ended",
            f"{result.ended}, after {_duration(result.elapsed_s)}: {result.n_steps} steps, "
            f"{result.n_accepted} accepted",
        ),
        ("Audition", f"{command} {audition(result.run)}"),
        ("Go on", f"{command} --resume {folder}{_more(result)}"),
    ]
    typer.echo("")
    for name, value in rows:
        typer.echo(f"{name:<9} {value}")
    if result.model_id == "builtin":
        typer.echo("\nThis voice belongs to the built-in model: Kokoro-82M cannot speak with it.")
    if result.ended == "interrupted":
        raise typer.Exit(_INTERRUPTED)


def _more(result: "Result") -> str:
    settings = result.run.settings
    if result.ended == "step limit":
        return f" --step_limit {2 * settings['step_limit']}"
    if result.ended == "time limit":
        return f" --time_limit {2 * settings['time_limit']:g}"
    return ""


# What is shown while it works.


def _score(outcome: "Outcome") -> str:
    parts = outcome.parts
    return (
        f"{outcome.total or 0:.2f} (target {parts['target']:.3f}, self {parts['stability']:.3f}, "
        f"features {parts['features']:.3f})"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Plain:
    """One line for a notice, and for an improvement."""

    def __init__(self, interrupts: "_Interrupts"):
        self._interrupts = interrupts

    def __enter__(self) -> "_Plain":
        self.notice("Loading …")
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves nothing behind."""

    def notice(self, message: str) -> None:
        typer.echo(message)

    def phase(
        self, name: str, n_generations: int, time_limit_s: float | None, clock: "Clock"
    ) -> None:
        self._name, self._limit = name, n_generations
        self._interrupts.searching = True

    def step(self, step: "Step") -> None:
        if step.improved and not step.replayed and step.best is not None:
            at, where = _duration(step.generation.elapsed_s), f"{step.n_done}/{self._limit}"
            typer.echo(f"{at} {self._name} {where}: {_score(step.best.outcome)}")

    def evaluating(self, is_evaluating: bool) -> None:
        self._interrupts.evaluating = is_evaluating

    def wants_to_stop(self) -> bool:
        return self._interrupts.came


class _Terminal:
    """A few lines at the bottom of the terminal that change as it works.

    They appear with the first phase: a download before that shows a progress bar of its own.
    """

    def __init__(self, console: Console, interrupts: "_Interrupts"):
        self._console = console
        self._interrupts = interrupts
        interrupts.say = self.notice
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._best = Text("")
        self._last = Text("", style="dim")
        self._live = Live(
            Group(self._progress, self._best, self._last), console=console, transient=True
        )
        self._task = self._progress.add_task("", total=None, speed="", left="")

    def __enter__(self) -> "_Terminal":
        self.notice("Loading …")
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def notice(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False)

    def phase(
        self, name: str, n_generations: int, time_limit_s: float | None, clock: "Clock"
    ) -> None:
        self._interrupts.searching = True
        self._live.start()
        self._clock, self._time_limit_s = clock, time_limit_s
        self._n_generations = n_generations
        self._began_s, self._n_replayed = clock.elapsed_s(), 0
        self._progress.reset(
            self._task, description=name.capitalize(), total=n_generations, speed="", left=""
        )

    def step(self, step: "Step") -> None:
        if step.replayed:
            self._began_s, self._n_replayed = self._clock.elapsed_s(), step.n_done
        else:
            self._tell_time(step)
        self._progress.update(self._task, completed=step.n_done)
        if step.improved and step.best is not None:
            outcome = step.best.outcome
            self._best.plain = f"Best {_score(outcome)}"
            self._last.plain = f"Last accepted: {self._describe(step)}"

    def evaluating(self, is_evaluating: bool) -> None:
        self._interrupts.evaluating = is_evaluating

    def wants_to_stop(self) -> bool:
        return self._interrupts.came

    def _describe(self, step: "Step") -> str:
        return (
            f"{step.generation.phase} {step.n_done}, after {_duration(step.generation.elapsed_s)}"
        )

    def _tell_time(self, step: "Step") -> None:
        elapsed_s = self._clock.elapsed_s()
        speed = (step.n_done - self._n_replayed) / max(elapsed_s - self._began_s, 1e-9)
        left_s = (self._n_generations - step.n_done) / speed
        if self._time_limit_s is not None:
            left_s = min(left_s, max(self._time_limit_s - elapsed_s, 0))
        self._progress.update(
            self._task, speed=f"{speed:.2f} steps/s", left=f"{_duration(left_s)} left"
        )


class _Interrupts:
    """Ctrl-C and SIGTERM while a job works.

    Before the search begins they end the program. Then the first one lets the candidate under way
    finish, and a second one drops it; while files are written, they wait.
    """

    def __init__(self) -> None:
        self.searching = False
        self.evaluating = False
        self.came = False
        self.say: Callable[[str], None] = lambda message: typer.echo(message, err=True)

    def __enter__(self) -> "_Interrupts":
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # Once interrupted, all that is left is to exit, with the code that says so.
            signal.signal(number, signal.SIG_IGN if self.came else handler)

    def _handle(self, *_: object) -> None:
        if self.evaluating if self.came else not self.searching:
            raise KeyboardInterrupt
        if not self.came:
            self.came = True
            self.say("Ending after this candidate; again to drop it.")


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Minds the signals; where one comes before there is anything to keep, says so and exits."""
    try:
        with _Interrupts() as interrupts:
            yield interrupts
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _observer(interrupts: _Interrupts) -> Any:
    console = Console()
    return _Terminal(console, interrupts) if console.is_terminal else _Plain(interrupts)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits; a `KvwError` becomes one sentence and exit code 2."""
    try:
        app(args=list(arguments) if arguments is not None else None)
    except KvwError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    sys.exit(0)
