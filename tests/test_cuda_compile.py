"""Every CUDA kernel compiles for every architecture, with every set of defines that the launch code asks for.

What each needs is compared with kernels/cuda/resources.json, which `python -m tests.cuda.nvrtc` writes.
"""

import json
import shutil
import subprocess
import sys

import pytest

from emonet_scratch.kernels.cuda import launch
from tests.cuda import nvrtc

pytestmark = pytest.mark.skipif(not nvrtc.installed(), reason="nvidia-cuda-nvrtc is not installed")
TABLE = json.loads(nvrtc.TABLE.read_text())
VARIANTS = list(nvrtc.variants())
titles = [nvrtc.title(*v) for v in VARIANTS]


def check(name, defines, found, architecture, table):
    """Complain about kernels that the table does not know, or knows with fewer spills."""
    known = table.get(nvrtc.title(name, defines), {})
    assert found.keys() == known.keys(), "kernels and resources.json differ: python -m tests.cuda.nvrtc"
    for kernel, (registers, spilled, stack, shared) in found.items():
        _, was_spilled, was_stack, _ = known[kernel][architecture]
        assert spilled <= was_spilled, f"{kernel} for {architecture} spills {spilled} bytes, was {was_spilled}"
        assert stack <= was_stack, f"{kernel} for {architecture} keeps {stack} bytes on the stack, was {was_stack}"
        assert 0 < registers <= 255 and shared <= launch.DEFAULT_SHARED


@pytest.fixture(scope="module")
def built():
    return nvrtc.build_all()


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("name, defines", VARIANTS, ids=titles)
def test_a_module_compiles_to_a_cubin_and_spills_no_more_than_it_did(built, name, defines, architecture):
    found = built[nvrtc.title(name, defines), architecture]
    assert not isinstance(found, nvrtc.CompileError), found
    assert found.keys() == launch.signatures(launch.source(name)).keys()
    check(name, defines, found, architecture, TABLE)


def test_the_table_and_the_folder_know_the_same_modules():
    files = {f.stem for folder in launch.FOLDERS for f in folder.glob("*.cu")}
    assert files == {name for name, _ in VARIANTS} and TABLE.keys() == {"NVRTC", *titles} and len(titles) == len(set(titles))


def test_the_sources_travel_in_the_wheel(tmp_path):
    pytest.importorskip("setuptools")
    root = nvrtc.TABLE.parents[2]
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)], cwd=root, check=True)
    code = "from emonet_scratch.kernels.cuda import launch; print(launch.__file__, len(launch.source('pointwise')))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    there = tmp_path / "emonet_scratch/kernels/cuda/launch.py"
    assert run.stdout.split() == [str(there), str(len(launch.source("pointwise")))]


def test_a_spill_and_a_kernel_without_a_row_are_caught(monkeypatch):
    name, defines = VARIANTS[0]
    greedy = '''
extern "C" __global__ void __launch_bounds__(1024, 2) emonet_greedy(float* x, int n) {
    float a[64];
#pragma unroll
    for (int i = 0; i < 64; i++) a[i] = x[i * 1024 + threadIdx.x];
    for (int k = 0; k < n; k++)
#pragma unroll
        for (int i = 0; i < 64; i++) a[i] = a[i] * a[(i + 7) % 64] + a[(i * 5 + k) % 64 == 3 ? 1 : 2];
#pragma unroll
    for (int i = 0; i < 64; i++) x[i * 1024 + threadIdx.x] = a[i];
}'''
    text = launch.source(name)
    monkeypatch.setattr(launch, "source", lambda name: text + greedy)
    found = nvrtc.build(name, defines, "sm_90")
    with pytest.raises(AssertionError, match=r"kernels and resources\.json differ"):
        check(name, defines, found, "sm_90", TABLE)
    table = {nvrtc.title(name, defines): {k: {"sm_90": [*numbers[:1], 0, 0, 0]} for k, numbers in found.items()}}
    with pytest.raises(AssertionError, match=r"emonet_greedy for sm_90 spills \d+ bytes, was 0"):
        check(name, defines, found, "sm_90", table)


def test_an_error_names_the_file_and_the_line(monkeypatch):
    text = launch.source("pointwise") + "\nint broken = ;"
    lines = text.split('#line 1 "pointwise.cu"\n')[1].count("\n") + 1
    monkeypatch.setattr(launch, "source", lambda name: text)
    with pytest.raises(nvrtc.CompileError, match=rf"pointwise\.cu\({lines}\): error"):
        nvrtc.build("pointwise", {}, "sm_80")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the path")
@pytest.mark.parametrize("name, defines", {name: (name, defines) for name, defines in VARIANTS}.values(), ids=str)
def test_nvcc_agrees(name, defines, tmp_path):
    """On one set of defines a module, and without a warning."""
    (tmp_path / "kernel.cu").write_text(launch.source(name))
    options = (*launch.options(defines), "-ftz=true", "-cubin", "-Werror", "all-warnings",
               "-diag-suppress", "128")                                       # a loop that this instance of a template skips
    for architecture in nvrtc.ARCHITECTURES:
        subprocess.run(["nvcc", *options, f"-arch={architecture}", "-o", str(tmp_path / "kernel.cubin"),
                        str(tmp_path / "kernel.cu")], check=True)
