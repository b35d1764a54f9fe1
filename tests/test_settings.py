"""Settings: ranges, layers, files, and one clear sentence for each mistake."""

import json

import pytest

from kvw.errors import SettingsError
from kvw.settings import Settings, read


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("population_limit", 0, "greater than or equal to 1"),
        ("step_limit", -1, "greater than or equal to 0"),
        ("step_limit", "many", "integer"),
        ("time_limit", 0, "greater than 0"),
        ("time_limit", float("inf"), "finite"),
        ("seed", -1, "greater than or equal to 0"),
        ("keep", "all", "'best' or 'improvements'"),
        ("space", "half", "'offset' or 'full'"),
        ("device", "tpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("weights", (0, 0, 0), "one of them above 0"),
        ("weights", (-1, 1, 1), "at least 0"),
        ("output_name", "  ", "not empty"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(name, value, said):
    with pytest.raises(SettingsError) as caught:
        Settings.create({name: value})
    message = str(caught.value)
    assert message.startswith(f"--{name}: expected")
    assert said in message
    assert repr(value) in message
    assert "\n" not in message


def test_an_unknown_setting_is_an_error_with_a_guess():
    with pytest.raises(SettingsError, match="did you mean step_limit"):
        Settings.create({"steplimit": 3})


def test_later_layers_win_and_none_means_not_given():
    settings = Settings.create({"seed": 1, "step_limit": 5}, {"seed": 2, "step_limit": None})
    assert (settings.seed, settings.step_limit) == (2, 5)


def test_settings_survive_json():
    settings = Settings.create({"target_audio": "a.wav", "weights": [1, 2, 3], "time_limit": 1.5})
    assert Settings.create(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_toml_file_and_a_runs_settings_are_read(tmp_path):
    toml = tmp_path / "mine.toml"
    toml.write_text('target-audio = "a.wav"\nstep_limit = 7\nweights = [1, 0, 0]\n')
    assert Settings.create(read(toml)).step_limit == 7
    saved = tmp_path / "settings.json"
    saved.write_text(json.dumps(Settings.create(read(toml)).to_dict()))
    assert Settings.create(read(saved)) == Settings.create(read(toml))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.toml", None, "cannot be read"),
        ("bad.toml", b"seed = ", "not valid toml"),
        ("bad.json", b"{", "not valid json"),
        ("list.json", b"[1]", "table of settings"),
        ("binary.toml", b"\xff\xfe\x00", "not text"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        read(path)


def test_a_folder_is_not_a_settings_file(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read(tmp_path)
