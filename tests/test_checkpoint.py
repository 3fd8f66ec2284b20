"""Checkpoints: what goes in comes out; what is damaged, foreign or incomplete is named."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import models
from emonet_scratch.emotions import CLASSES
from emonet_scratch.training import CheckpointError, load_model, read_checkpoint, write_checkpoint
from tests.tiny import TINY, make


@given(st.floats(0, 0.999))
def test_a_checkpoint_cut_short_is_named(uninterrupted, part):
    whole = (uninterrupted / "last.safetensors").read_bytes()
    path = uninterrupted / "cut.safetensors"
    path.write_bytes(whole[:int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"checkpoint '.*cut\.safetensors'(: the file is empty| is damaged)") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_foreign_checkpoints_are_refused(tmp_path, uninterrupted):
    from safetensors.numpy import save_file
    save_file({"x": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not of emonet_scratch"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "none.safetensors")
    write_checkpoint(tmp_path / "new.safetensors", {}, {})
    text = (tmp_path / "new.safetensors").read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9')
    (tmp_path / "new.safetensors").write_bytes(text)
    with pytest.raises(CheckpointError, match="format 9, this version reads 1"):
        read_checkpoint(tmp_path / "new.safetensors")
    save_file({"x": np.zeros(2)}, tmp_path / "list.safetensors", {"emonet": "[1]"})
    with pytest.raises(CheckpointError, match="not of emonet_scratch"):
        read_checkpoint(tmp_path / "list.safetensors")
    for other in (dict(seed=4), dict(seed=3, config=TINY.replace(lr=0.02))):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "last.safetensors").write_bytes((uninterrupted / "last.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match="another configuration or seed"):
            make(tmp_path / "run", **other).fit(resume=True)


@pytest.mark.parametrize("gone", ["projection", "model", "facts", "config"])
def test_a_checkpoint_that_lacks_something_is_named(tmp_path, uninterrupted, gone):
    groups, meta = read_checkpoint(uninterrupted / "best.safetensors")
    meta |= {"facts": {"feature_names": ["x"] * 9, "extractor": "files", "classes": list(CLASSES)}}
    write_checkpoint(tmp_path / "x.safetensors", groups, meta)
    assert load_model(tmp_path / "x.safetensors").feature_names == ("x",) * 9
    for damaged in ({}, {gone: []}, {gone: 3}) if gone in meta else ({},):
        write_checkpoint(tmp_path / "x.safetensors", {k: v for k, v in groups.items() if k != gone},
                         {k: v for k, v in meta.items() if k != gone} | damaged)
        with pytest.raises(CheckpointError, match=r"x\.safetensors' does not hold a network of this version") as error:
            load_model(tmp_path / "x.safetensors")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("damaged", [{"progress": {}}, {"progress": [1]}, {"data": None}, {"data": {}}, {"seed": None},
                                     {"config": {"lr": "x"}}])
def test_a_checkpoint_without_a_whole_training_state_is_named(tmp_path, uninterrupted, damaged):
    groups, meta = read_checkpoint(uninterrupted / "last.safetensors")
    write_checkpoint(tmp_path / "last.safetensors", groups, meta | damaged)
    with pytest.raises(CheckpointError, match=r"last\.safetensors'"):
        make(tmp_path, seed=3).fit(resume=True)


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_checkpoints_go_round(tmp_path_factory, arrays, seed):
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("c") / "x.safetensors"
    group = {f"a.{k}": rng.standard_normal((k, 2)).astype(np.float32).T for k in range(arrays)}
    write_checkpoint(path, {"g": group, "h": {"n": np.array(3)}}, {"seed": seed, "x": 0.1 + 0.2})
    groups, meta = read_checkpoint(path)
    assert meta["seed"] == seed and meta["x"] == 0.1 + 0.2 and groups["h"]["n"] == 3
    assert all(np.array_equal(groups["g"][k], a) and groups["g"][k].dtype == a.dtype for k, a in group.items())


def test_the_whole_configuration_is_in_the_checkpoint(uninterrupted):
    _, meta = read_checkpoint(uninterrupted / "best.safetensors")
    assert models.EmoNetConfig().replace(**meta["config"]) == TINY and meta["seed"] == 3
    assert json.loads(json.dumps(dataclasses.asdict(TINY))) == meta["config"]


@pytest.mark.parametrize("group", ["model", "projection", "optimizer"])
def test_numbers_that_are_not_finite_are_named(tmp_path, uninterrupted, group):
    """But not those of an optimizer, which no prediction reads."""
    groups, meta = read_checkpoint(uninterrupted / "last.safetensors")
    meta |= {"facts": {"feature_names": ["x"] * 9, "extractor": "files", "classes": list(CLASSES)}}
    name = max((n for n, a in groups[group].items() if a.dtype.kind == "f"), key=lambda n: groups[group][n].size)
    groups[group][name].flat[0] = np.nan
    write_checkpoint(tmp_path / "x.safetensors", groups, meta)
    if group == "optimizer":
        assert load_model(tmp_path / "x.safetensors").config == TINY
    else:
        with pytest.raises(CheckpointError, match=f"{group}/{name}' holds numbers that are not finite"):
            load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("change", [{"lstm_size": 4096}, {"trunk_depth": 1202}, {"lstm_layers": 64},
                                    {"trunk_width": 4096}, {"fusion_layers": [4096, 4096]}])
def test_a_configuration_is_compared_with_the_arrays_first(tmp_path, uninterrupted, change):
    groups, meta = read_checkpoint(uninterrupted / "best.safetensors")
    meta |= {"facts": {"feature_names": ["x"] * 9, "extractor": "files", "classes": list(CLASSES)}}
    write_checkpoint(tmp_path / "x.safetensors", groups, meta | {"config": meta["config"] | change})
    with pytest.raises(CheckpointError, match="declares is larger than what it holds"):
        load_model(tmp_path / "x.safetensors")


def test_a_projection_of_other_features_is_named(tmp_path, uninterrupted):
    groups, meta = read_checkpoint(uninterrupted / "best.safetensors")
    meta |= {"facts": {"feature_names": ["x"] * 9, "extractor": "files", "classes": list(CLASSES)}}
    groups["projection"]["mean"] = groups["projection"]["mean"][:3]
    write_checkpoint(tmp_path / "x.safetensors", groups, meta)
    with pytest.raises(CheckpointError, match="mean, spread and scale are not those of 9 features"):
        load_model(tmp_path / "x.safetensors")
