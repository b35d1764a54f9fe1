"""The settings of a run: their names, defaults, ranges, and where they may come from.

One model serves flags, a configuration file and the `settings.json` of a run. Knows nothing of how
a setting is used; whether a file or a device exists is found out by the module that needs it.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kvw.errors import SettingsError

Device = Literal["auto", "cpu", "cuda", "mps"]
SpaceName = Literal["offset", "full"]
Keep = Literal["best", "improvements"]

# What a resumed run may change: how long it goes on, and what it leaves behind. All else decides
# which candidates come next.
RESUMABLE = frozenset({"step_limit", "time_limit", "keep", "device"})


class Settings(BaseModel):
    """Settings of the main job. Defaults and names are KVoiceWalk's where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_audio: Annotated[Path | None, Field(description="recording of the speaker")] = None
    target_text: Annotated[str | None, Field(description="what is said in the recording")] = None
    other_text: Annotated[str | None, Field(description="text of the second utterance")] = None
    model: Annotated[str, Field(description="auto, kokoro, builtin or a folder")] = "auto"
    voice_folder: Annotated[Path | None, Field(description="stock voices")] = None
    starting_voice: Annotated[str | None, Field(description="path, stock name or blend")] = None
    population_limit: Annotated[int, Field(ge=1, description="best stock voices to build on")] = 10
    interpolate_start: Annotated[bool, Field(description="search between stock voices")] = False
    transcribe_start: Annotated[bool, Field(description="transcribe the recording")] = False
    step_limit: Annotated[int, Field(ge=0, description="steps of the walk")] = 10_000
    time_limit: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    space: Annotated[SpaceName, Field(description="what the walk moves in")] = "offset"
    components: Annotated[int, Field(ge=1, description="dimensions of the offset space")] = 24
    weights: Annotated[
        tuple[float, float, float], Field(description="target, self, feature similarity")
    ] = (0.48, 0.50, 0.02)
    output_name: Annotated[str | None, Field(description="name of the run")] = None
    keep: Keep = "best"
    device: Device = "auto"
    lang_code: str = "a"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("weights")
    @classmethod
    def _weights_are_usable(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if any(not 0 <= w < float("inf") for w in value) or sum(value) == 0:
            raise ValueError("three numbers of at least 0, one of them above 0")
        return value

    @field_validator("output_name")
    @classmethod
    def _name_is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("a name that is not empty")
        return value

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name in data:
                if name not in cls.model_fields:
                    near = difflib.get_close_matches(str(name), cls.model_fields, n=1)
                    hint = f"; did you mean {near[0]}?" if near else ""
                    raise SettingsError(f"There is no setting named {name!r}{hint}")
        return data

    @classmethod
    def create(cls, *layers: Mapping[str, Any]) -> Self:
        """Settings from layers of name -> value, later ones winning.

        Raises:
            SettingsError: an unknown name, or a value out of its range.
        """
        merged: dict[str, Any] = {}
        for layer in layers:
            merged.update({name: value for name, value in layer.items() if value is not None})
        try:
            return cls(**merged)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            message = first["msg"].removeprefix("Value error, ")
            message = message.removeprefix("Input should be ").removeprefix("a valid ")
            raise SettingsError(f"--{name}: expected {message}, got {first['input']!r}") from error

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON values; `create` of them gives equal settings."""
        return self.model_dump(mode="json")


def read(path: Path) -> dict[str, Any]:
    """Settings from a TOML file, or from the `settings.json` of a run, as name -> value.

    Dashes in names count as underscores. Paths are taken relative to the current folder, as they
    are on the command line.

    Raises:
        SettingsError: the file is missing, is neither, or does not hold a table of settings.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"--config: expected a TOML file or a run's settings.json, but {path} cannot be read "
            f"({error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"--config: expected a TOML file or a run's settings.json, but {path} is not text"
        ) from error
    try:
        table = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"--config: {path} is not valid {path.suffix[1:]}: {error}") from error
    if not isinstance(table, dict):
        raise SettingsError(f"--config: expected a table of settings in {path}")
    return {str(name).replace("-", "_"): value for name, value in table.items()}
