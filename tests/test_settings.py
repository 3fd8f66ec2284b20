"""Settings: what cannot be is refused, what can goes to config.json and comes back, a damaged file is named."""

import dataclasses
import json
import os

import pytest

from emonet_scratch.errors import DataError
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.training.settings import MODALITIES, Settings, find_run, read_settings

SETTINGS = Settings(("data",), EmoNetConfig.preset("small"), ("fused",), seed=3, precision="fp32", save_every=5)


@pytest.mark.parametrize("settings", [
    SETTINGS, Settings(("data",), EmoNetConfig()),
    Settings(("a\nb", "c"), EmoNetConfig.preset("paper"), device="cuda:1", cache="c", on_error="stop", labels="calm=Neutral",
             name="{group}_{label}", allow_shared_groups=True)])
def test_they_go_round(tmp_path, settings):
    settings.write(tmp_path, {"numpy": "2"})
    content = json.loads((tmp_path / "config.json").read_text())
    assert read_settings(tmp_path) == settings and content["versions"] == {"numpy": "2"}
    assert list(content) == ["versions", "data", "config", "modalities", "seed", "device", "precision", "cache", "on_error",
                             "save_every", "labels", "name", "allow_shared_groups"]
    assert content["config"].keys() == {f.name for f in dataclasses.fields(EmoNetConfig)}


def test_the_configuration_of_each_network():
    assert {name: SETTINGS.config_of(name).modalities for name in MODALITIES} == MODALITIES
    assert SETTINGS.config_of("audio").replace(modalities=SETTINGS.config.modalities) == SETTINGS.config


WRONG = [("data", None), ("data", ""), ("data", "data"), ("data", []), ("data", [""]), ("data", ["a\0"]), ("data", [3]),
         ("config", 3), ("config", {"lr": "x"}), ("config", {"speed": 1}),
         ("modalities", ["dance"]), ("modalities", [["audio"]]), ("modalities", []), ("modalities", "audio"),
         ("seed", "3"), ("seed", -1), ("seed", True), ("device", 0), ("precision", "half"), ("precision", [1]), ("cache", 1),
         ("on_error", "ask"), ("on_error", None), ("save_every", "x"), ("save_every", 0),
         ("labels", None), ("labels", ["a=b"]), ("name", 3), ("allow_shared_groups", 1), ("allow_shared_groups", None)]


@pytest.mark.parametrize("field, value", WRONG)
def test_a_wrong_value_is_named(tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got "):
        dataclasses.replace(SETTINGS, **{field: value})
    SETTINGS.write(tmp_path, {})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    named = {"x": "lr", 1: "'speed'"}.get(next(iter(value.values())), field) if isinstance(value, dict) else field
    with pytest.raises(DataError, match=rf"config\.json' does not hold the settings of a run \(.*{named}") as error:
        read_settings(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Settings)])
def test_a_field_that_is_missing_is_named(tmp_path, field):
    SETTINGS.write(tmp_path, {})
    file = tmp_path / "config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != field}))
    with pytest.raises(DataError, match=rf"config\.json' .*it lacks '{field}'"):
        read_settings(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"3", b"\xff", b"{}", b'{"data": '])
def test_a_file_that_is_no_object_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json' does not hold the settings of a run \("):
        read_settings(tmp_path)


def test_the_newest_run_that_is_not_finished_is_found(tmp_path):
    for k, name in enumerate(("old", "new", "finished")):
        (tmp_path / name).mkdir()
        SETTINGS.write(tmp_path / name, {})
        os.utime(tmp_path / name / "config.json", (k, k))
    (tmp_path / "finished" / "results.json").write_text("{}")
    assert find_run("auto", tmp_path) == tmp_path / "new"
    assert find_run(str(tmp_path / "old"), tmp_path) == tmp_path / "old"
    with pytest.raises(DataError, match="no folder of a run"):
        find_run(str(tmp_path), tmp_path)
    with pytest.raises(DataError, match="no unfinished run below"):
        find_run("auto", tmp_path / "old")
