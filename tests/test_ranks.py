"""Several ranks, by a real mpiexec: the bytes of one, killed and resumed with another number; what fails ends all of them.

Every job has a time limit: a hang is a failure.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from emonet_scratch.cli import main
from emonet_scratch.training import ranks
from tests.tiny import QUICK, build, make, states

ROOT = Path(__file__).parents[1]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
LIMIT = 180                 # seconds: none of these takes a tenth of it on an idle machine
TRAIN = ["-m", "emonet_scratch", "train", "--ranks", *QUICK, "--set", "lda_cross_fit=2"]

with_mpi = pytest.mark.skipif(MPIEXEC is None or subprocess.run([sys.executable, "-c", "from mpi4py import MPI"],
                                                                capture_output=True).returncode != 0,
                              reason="no MPI: pip install 'emonet_scratch[mpi]' mpich")


def launch(n, *command, **options):
    """mpiexec -n N python COMMAND, one thread a rank, begun."""
    if isinstance(n, int):
        n = ["-n", str(n), sys.executable, *command]
    threads = dict.fromkeys(("EMONET_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen([MPIEXEC, *n], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=os.environ | threads | options, start_new_session=True)


def end_of(job, limit=LIMIT):
    """(exit status, stdout, stderr) of a job; where it hangs, all of it is killed and the test fails."""
    try:
        out, err = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"hangs after {limit} s:\n{out[-2000:]}\n{err[-2000:]}")
    return job.returncode, out, err


def run(n, *command, **options):
    return end_of(launch(n, *command, **options))


def child(n, *words, **options):
    return run(n, "-m", "tests.ranks_child", *map(str, words), **options)


def fine(result):
    code, out, err = result
    assert code == 0, out[-3000:] + err[-3000:]
    return out, err


def artefacts(folder):
    """The bytes of all files of a run, with times and folders taken out of those that hold them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name == "page.html":                          # it holds when it was made
            continue
        content = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            lines = [content] if path.suffix == ".json" else content.splitlines()
            content = json.dumps([without_times(json.loads(line)) for line in lines])
        elif path.name == "results.txt":
            content = [line.split()[:-1] for line in content.decode().splitlines()]
        found[name] = content
    return found


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in ("seconds", "command")}
    return list(map(without_times, value)) if isinstance(value, list) else value


@pytest.fixture(scope="module", autouse=True)
def swept():
    """Killed ranks of MPICH leave their shared memory behind, a file each."""
    there = set(Path("/dev/shm").glob("mpich_shm_*"))
    yield
    for file in set(Path("/dev/shm").glob("mpich_shm_*")) - there:
        file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "AFEW", features=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """{number of ranks: the folder of its run}, all but the first with frames that the first has decoded."""
    folder = tmp_path_factory.mktemp("runs")
    for n in (1, 2, 3, 4):
        fine(run(n, *TRAIN, "--data", str(data), "--runs", str(folder), "--out", str(folder / str(n)), "--set", "shards=4"))
    return {n: folder / str(n) for n in (1, 2, 3, 4)}


@with_mpi
def test_every_artefact_has_the_same_bytes_for_any_number_of_ranks(runs):
    one = artefacts(runs[1])
    assert {"config.json", "results.json", "results.txt", "confusion.png", "reliability.png", "curves.png"} <= one.keys()
    for network in ("audio", "video", "fused"):
        assert {f"{network}/{name}" for name in ("last.safetensors", "best.safetensors", "metrics.jsonl", "validation.csv")
                } <= one.keys()
    for n in (2, 3, 4):
        other = artefacts(runs[n])
        assert other.keys() == one.keys()
        assert not [name for name in one if other[name] != one[name]], n
    assert all((folder / "page.html").stat().st_size > 10_000 for folder in runs.values())


@with_mpi
def test_the_bytes_are_those_of_one_process_without_mpi(runs, data, tmp_path, monkeypatch):
    """The same shards, no launcher."""
    monkeypatch.setenv("EMONET_THREADS", "1")
    threads = dict.fromkeys(("EMONET_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [*TRAIN, "--data", str(data), "--runs", str(tmp_path), "--out", str(tmp_path / "alone"), "--set", "shards=4"]
    command.remove("--ranks")
    subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ | threads, check=True, capture_output=True)
    one, alone = artefacts(runs[1]), artefacts(tmp_path / "alone")
    assert not [name for name in one if name != "config.json" and alone[name] != one[name]]


@with_mpi
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_gradients_are_those_of_the_whole_batch(n, tmp_path):
    """In float64, on every rank; that the check finds planted bugs is in test_shards.py."""
    fine(child(n, "gradients", tmp_path))
    assert all(json.loads((tmp_path / f"{rank}.json").read_text()) < 1e-12 for rank in range(n))


@with_mpi
@pytest.mark.parametrize("n", [1, 2, 4])
def test_messages_of_all_lengths_arrive_in_order(n, tmp_path):
    fine(child(n, "exchanges", tmp_path))
    assert len(list(tmp_path.iterdir())) == n


@with_mpi
@pytest.mark.parametrize("n", [2, 3])
def test_sums_without_the_host_are_the_same_and_wait_for_the_gpu(n):
    fine(child(n, "direct"))


def test_the_probe_for_gpus_says_no_where_there_is_none(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")                                        # it has to begin a world of its own
    assert ranks.reads_gpus() is False
    monkeypatch.setattr(ranks, "PROBE", "import os; raise SystemExit('PMI_RANK' in os.environ)")
    assert ranks.reads_gpus() is True


@with_mpi
def test_nobody_decodes_twice(data, tmp_path):
    fine(child(3, "reads", data, tmp_path / "cache", tmp_path / "log"))
    starts = (tmp_path / "log").read_text().splitlines()
    assert len(starts) == len(set(starts)) == 28


def ranks_of(job):
    """{rank: process} of the processes that mpiexec has started."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, KeyError):
            words = (entry / "environ").read_text(errors="replace").split("\0")
            words = dict(word.split("=", 1) for word in words if "=" in word)
            if os.getpgid(int(entry.name)) and words["EMONET_JOB"] == job and "PMI_RANK" in words:
                found[int(words["PMI_RANK"])] = int(entry.name)
    return found


@with_mpi
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="ranks are found by /proc")
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_rank_that_is_killed_ends_the_job_and_another_number_goes_on_to_the_same_bytes(victim, tmp_path):
    make(tmp_path / "whole", seed=3, save_every=2, config=shards()).fit()
    rng, kills = random.Random(victim), 0
    for attempt in range(3):
        name = f"{tmp_path}-{attempt}"
        job = launch(3, "-m", "tests.ranks_child", "train", str(tmp_path / "killed"), EMONET_JOB=name)
        until = time.monotonic() + LIMIT
        while not (tmp_path / "killed" / "last.safetensors").exists() and time.monotonic() < until and job.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        found = ranks_of(name)
        if victim in found and job.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(found[victim], signal.SIGKILL)
                kills += 1
        end_of(job, 60)                                                        # and no rank is left waiting
        until = time.monotonic() + 20
        while ranks_of(name) and time.monotonic() < until:                    # who was killed may take a moment to go
            time.sleep(0.1)
        assert not ranks_of(name)
    assert kills
    fine(child(2, "train", tmp_path / "killed"))
    assert states(tmp_path / "killed") == states(tmp_path / "whole")


def shards():
    from tests.tiny import TINY
    return TINY.replace(shards=4, epochs=12)


@with_mpi
def test_a_rank_that_raises_ends_all_of_them_with_its_message(tmp_path):
    started = time.monotonic()
    code, _, err = child(3, "raises", tmp_path)
    assert code != 0 and "the disk of rank 1 is gone" in err and time.monotonic() - started < 60
    assert (tmp_path / "last.safetensors").exists()


@with_mpi
def test_an_error_of_the_command_is_said_once_and_ends_all(data, tmp_path):
    """Rank 0 says what all have met; what only one has met, that one says."""
    code, _, err = run(3, *TRAIN, "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"))
    assert code != 0 and err.count("emonet: rank") == 1 and "emonet: rank 0: error" in err and "nowhere" in err
    code, _, err = run(2, *TRAIN, "--data", str(data), "--runs", str(tmp_path), "--set", "lr=-1")
    assert code == 2 and err.count("error: ") == 1 and "lr must be" in err     # a wrong call
    same = [sys.executable, *TRAIN, "--data", str(data), "--runs", str(tmp_path)]
    on = ["-n", "1", "-env", "EMONET_KERNELS", "on"]
    code, _, err = run([*on, *same, ":", *on, "-env", "EMONET_THREADS", "none", *same])
    assert code != 0 and "emonet: rank 1: error" in err and "EMONET_THREADS must be" in err


@with_mpi
def test_who_reads_no_further_ends_all(data):
    """`| head`: rank 0 cannot print, and the others would wait for it for ever."""
    code, _, err = child(2, "stops_reading", data / "Val_AFEW")
    assert code != 0 and "Traceback" not in err


@with_mpi
def test_ranks_that_are_told_different_things_are_refused_before_the_first_step(data, tmp_path):
    def two(*other, kernels="off"):
        same = [sys.executable, *TRAIN, "--data", str(data), "--runs", str(tmp_path), "--out", str(tmp_path / "run")]
        return run(["-n", "1", "-env", "EMONET_KERNELS", "off", *same,
                    ":", "-n", "1", "-env", "EMONET_KERNELS", kernels, *same, *other])
    for result, what in ((two("--seed", "3"), "arguments"), (two("--set", "lr=-1"), "arguments"),
                         (two(kernels="on"), "versions")):
        code, _, err = result
        assert code != 0 and f"rank 1 has other {what} than rank 0" in err, err
        assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.safetensors"))
    code, _, err = child(2, "other_data", tmp_path / "data")
    assert code != 0 and "rank 1 has other data than rank 0" in err
    assert not (tmp_path / "data" / "last.safetensors").exists()


@with_mpi
def test_more_ranks_than_shards_are_refused(data, tmp_path):
    code, _, err = run(3, *TRAIN, "--data", str(data), "--out", str(tmp_path / "run"), "--set", "shards=2",
                       "--runs", str(tmp_path))
    assert code != 0 and "3 ranks cannot share batches of 2 shard(s)" in err


@with_mpi
def test_a_launcher_alone_asks_for_ranks_and_resume_takes_any_number(data, tmp_path):
    """Without --ranks: mpiexec says enough. A finished run is left as it is, and its folder has the time as its name."""
    command = [word for word in TRAIN if word != "--ranks"] + ["--data", str(data), "--runs", str(tmp_path)]
    out, err = fine(run(2, *command, "--modalities", "audio"))
    assert err.count("ranks: 2 on 1 machine") == 1 and out.count("run: ") == 1
    folder, = (path.parent for path in tmp_path.glob("*/results.json"))
    assert json.loads((folder / "config.json").read_text())["config"]["shards"] == 8
    before = artefacts(folder)
    out, _ = fine(run(3, "-m", "emonet_scratch", "train", "--ranks", "--resume", str(folder)))
    assert out.count("is finished") == 1 and artefacts(folder) == before


@with_mpi
def test_folds_trials_vectors_and_answers_are_those_of_one(data, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    quick = [*QUICK, "--set", "lda_cross_fit=2", "--runs", str(tmp_path)]
    audio = ["--data", data, *quick, "--modalities", "audio"]

    def emonet(n, command, *words):
        """By n ranks; 0: by one process that knows of none."""
        words = ["-m", "emonet_scratch", command, *(["--ranks"] if n else []), *map(str, words)]
        if n:
            return fine(run(n, *words))[0]
        threads = dict.fromkeys(("EMONET_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ | threads, check=True, text=True,
                              stdout=subprocess.PIPE).stdout
    for n in (0, 2):
        emonet(n, "cross-validate", *audio, "--folds", 3, "--out", tmp_path / f"folds{n}")
        emonet(n, "search", *audio, "--trials", 9, "--set", "shards=4", "--out", tmp_path / f"search{n}")
        emonet(n, "features", data, "--out", tmp_path / f"{n}.npz")
        (tmp_path / f"{n}.csv").write_text(emonet(n, "predict", "--csv", data / "Val_AFEW", "--device", "cpu"))
    for name in ("crossvalidation.json", "crossvalidation.csv", "crossvalidation.txt", "fold-000.json", "settings.json"):
        assert (tmp_path / "folds0" / name).read_bytes() == (tmp_path / "folds2" / name).read_bytes(), name

    def trials(n):
        lines = (tmp_path / f"search{n}" / "trials.csv").read_text().splitlines()
        column = lines[0].split(",").index("seconds")
        return [[cell for k, cell in enumerate(line.split(",")) if k != column] for line in lines]
    assert trials(0) == trials(2) and len(trials(0)) == 10
    assert any("PRUNED" in str(row).upper() for row in trials(0))              # one is stopped on both ranks
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert len((tmp_path / "0.csv").read_text().splitlines()) == 8


# Options of sbatch that the example may use, and what their values look like.
SBATCH = {"job-name": r"\w+", "nodes": r"\d+", "ntasks-per-node": r"\d+", "cpus-per-task": r"\d+", "gpus-per-task": r"\d+",
          "time": r"\d+:\d\d:\d\d", "requeue": "", "open-mode": "append|truncate"}


@with_mpi
def test_the_job_file_of_slurm_is_well_formed_and_runs_and_goes_on_without_slurm(data, tmp_path):
    """Its #SBATCH lines come before the first command, and each is known; `srun` is played by mpiexec."""
    lines = (ROOT / "examples/slurm.sh").read_text().splitlines()
    asked = [line.split("--", 1)[1].partition("=") for line in lines if line.startswith("#SBATCH ")]
    assert asked and all(re.fullmatch(SBATCH[name], value) for name, _, value in asked)
    first = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/bash\n[ "$1 $2" = "--mpi=pmi2 --kill-on-bad-exit=1" ] || exit 9\nshift 2\n'
                    f'exec {MPIEXEC} -n "$SLURM_NTASKS" "$@"\n')
    srun.chmod(0o755)
    environment = os.environ | {"PATH": f"{srun.parent}:{os.environ['PATH']}", "PYTHON": sys.executable,
                                "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "1", "PYTHONPATH": str(ROOT)}
    command = ["bash", str(ROOT / "examples/slurm.sh"), *QUICK, "--data", str(data), "--modalities", "audio"]
    said = [subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=LIMIT, check=True,
                           env=environment | {"SLURM_NTASKS": n}).stdout for n in ("2", "3")]
    assert "run: runs/slurm-17" in said[0] and "is finished" in said[1]
    assert (tmp_path / "runs/slurm-17/audio/best.safetensors").exists()


@with_mpi
def test_a_hang_is_found(tmp_path):
    """The limit that all of these have, tried."""
    with pytest.raises(pytest.fail.Exception, match="hangs after 4 s"):
        end_of(launch(2, "-m", "tests.ranks_child", "sleeps"), 4)


def test_nothing_imports_mpi_before_it_is_asked_for():
    code = "import sys; from emonet_scratch.cli import main; main(['doctor', '--system']); print('mpi4py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_without_mpi_the_error_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    assert main(["train", "--ranks", "--runs", str(tmp_path), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'emonet_scratch[mpi]'" in error and len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
