"""Wrong calls of the command line: one line each, before anything is written."""

import pytest

from emonet_scratch.cli import main
from tests.test_cli import fails


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Default folders such as runs/ are made in a folder of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments, message", [
    (["train", "--data", "nowhere"], "nowhere': expected a folder"), (["doctor", "nowhere"], "nowhere': expected a folder"),
    (["train", "--resume", "nowhere"], "no folder of a run"), (["train", "--device", "cuda:9"], "cuda:9 cannot be used"),
    (["train", "--device", "tpu"], "must be auto, cpu, cuda"),
    (["train", "--device", "cpu", "--precision", "tf32"], "wants a GPU, bf16 a GPU or a CPU with AVX512-BF16"),
    (["predict", "--device", "cpu", "--precision", "tf32", "--checkpoint", "nowhere", "x.avi"], "tf32 wants a GPU"),
    (["predict", "--checkpoint", "nowhere", "x.avi"], "'nowhere': no such file")])
def test_wrong_paths_and_devices_get_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, message", [
    (["train", "--set", "lr"], "FIELD=VALUE"), (["train", "--set", "rate=1"], "no field 'rate'"),
    (["train", "--preset", "big"], "invalid choice"), (["train", "--epochs", "0"], "epochs must be a positive integer"),
    (["train", "--resume", "auto", "--seed", "3"], "leave out --seed"), (["dance"], "invalid choice"), ([], "required"),
    (["train", "--set", "optimizer=lamb"], "optimizer must be one of"),
    (["train", "--set", "lr=abc"], "lr must be a number from 0"),
    (["train", "--set", "lr=-1"], "lr must be a number from 0"), (["train", "--set", "dropout=2"], "in [0, 1)"),
    (["train", "--set", "fusion_layers=3"], "a list of up to 64 integers"), (["train", "--set", "lr=NaN"], "lr must be"),
    (["train", "--set", "trunk_depth=9"], "6n + 2"), (["train", "--set", "augment=1"], "true or false"),
    (["train", "--seed", "-1"], "expected an integer from 0"), (["train", "--epochs", "x"], "invalid int"),
    (["train", "--r\n\x1b[2J"], "unrecognized arguments: --r\\n\\x1b[2J\n"),
    (["train", "--save-every", "0"], "expected an integer from 1"), (["train", "--set", "rate=1"], "usage: emonet train"),
    (["train", "--set", "modalities=[[\"audio\"]]"], "use --modalities {audio,video,fused,all}"),
    (["train", "--set", "modalities=audio"], "use --modalities"),
    (["train", "--data", "x", "--clips-per-class", "1", "1", "1"], "leave it out with --data"),
    *((["train", "--resume", "auto", *given], f"leave out {given[0]}\n") for given in (
        ["--on-error", "skip"], ["--cache", "c"], ["--save-every", "1"], ["--clips-per-class", "70", "20", "4"],
        ["--seed", "0"], ["--data", "x"], ["--preset", "small"], ["--set", "lr=1"], ["--epochs", "3"],
        ["--modalities", "all"], ["--out", "x"])),
    *(([*command, ""], "expected a path, got an empty one") for command in (
        ["train", "--data"], ["train", "--runs"], ["train", "--out"], ["train", "--resume"], ["train", "--cache"],
        ["doctor"], ["synthesize"], ["evaluate"], ["evaluate", "x", "--data"], ["evaluate", "x", "--data", "x", "--out"],
        ["predict", "--checkpoint", "x"], ["predict", "x", "--checkpoint"],
        ["predict", "x", "--checkpoint", "x", "--features"]))])
def test_wrong_calls_get_a_usage_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_ctrl_c_without_a_run_names_none(tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt
    monkeypatch.setattr("emonet_scratch.cli.collect", interrupt)
    assert main(["doctor", "data"]) == 130
    assert capsys.readouterr().err == "emonet: interrupted\n"
