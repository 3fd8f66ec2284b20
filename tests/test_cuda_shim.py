"""The shim is checked itself: planted bugs, each of which must be caught, and kernels whose results are known."""

import numpy as np
import pytest

from emonet_scratch.kernels.cuda import launch
from tests.cuda.shim import ShimError

EPS = np.finfo(np.float32).eps


@pytest.fixture
def kernel(shim, monkeypatch):
    """kernel(source text) -> its only kernel, behind launch.py as all kernels are."""
    common = launch.source("pointwise").split('#line 1 "pointwise.cu"')[0]

    def build(text, cooperative=False, **defines):
        monkeypatch.setattr(launch, "source", lambda name: f'{common}#line 1 "bug.cu"\n{text}')
        module = launch.Module("bug", defines, cooperative, launch.compiler)
        return module.kernel(next(iter(module.signatures)))
    return build


def floats(shim, n):
    return shim.asarray(np.arange(1, n + 1, dtype=np.float32))


def body(text):
    """A kernel that is given x (n) and y (n)."""
    return f'extern "C" __global__ void emonet_bug(const float* x, float* y, int n) {{\n    int t = threadIdx.x;\n{text}\n}}'


HEADER = launch.source("pointwise").split('#line 1 "common.cuh"\n')[1].splitlines()
SHUFFLE = next(n for n, line in enumerate(HEADER, 1) if "__shfl" in line)         # of warp_sum, the first there

# name: what the kernel does, number of threads, what must be said
BUGS = {
    "a barrier is missing": ("""
        __shared__ float s[64];
        s[t] = x[t];
        y[t] = s[63 - t];""", 64, r"emonet_bug: y depends on the order of threads: element 0 is nan in forward"),
    "a barrier is missing in front of the next round": ("""
        __shared__ float s[64];
        for (int k = 0; k < 2; k++) {
            s[t] = x[t] + k;
            __syncthreads();
            y[t] += s[63 - t];
        }""", 64, "y depends on the order of threads"),
    "a barrier is missing that only shuffles hide": ("""
        __shared__ float s[2];
        for (int k = 0; k < 2; k++) {
            float v = warp_sum(x[t] + k);
            if (t % 32 == 0) s[t / 32] = v;
            __syncthreads();
            y[t] += warp_sum(s[t % 2]);
        }""", 64, "y depends on the order of threads"),
    "a warp does not wait for its own writes": ("""
        __shared__ float s[32];
        s[t] = x[t];
        y[t] = s[t ^ 1];""", 32, "y depends on the order of threads"),
    "blocks read what other blocks write": ("y[blockIdx.x * 8 + t] = x[t] + (blockIdx.x ? y[t] : 0);", 8,
                                            "y depends on the order of threads"),
    "a sum of floats by atomics": ("atomicAdd(y, 1 / x[t] + 1e-3f * t * t);", 64, "y depends on the order of threads"),
    "writes one too many": ("if (t <= n) y[t] = 1;", 96, "emonet_bug wrote behind y, 1 elements off"),
    "writes in front": ("if (t == 0) y[-2] = 1;", 8, "emonet_bug wrote in front of y, 2 elements off"),
    "changes what is behind": ("if (t <= n) y[t] += 1;", 96, "emonet_bug wrote behind y, 1 elements off"),
    "writes behind dynamic shared memory": ("extern __shared__ float s[];\n        s[t + 3] = 1;", 64,
                                            r"block \(0, 0, 0\): wrote 0 bytes behind its dynamic shared memory"),
    "writes behind static shared memory": ("__shared__ float s[64];\n        s[t + n - 63] = x[t];", 64,
                                           r"thread \(63, 0, 0\): an index outside of its array"),
    "reads far away": ("y[t] = x[n * 100000000ll];", 1, r"thread \(0, 0, 0\): an address outside of all memory"),
    "is not aligned": ("*(float4*)(y + 2 * t) = make_float4(1, 2, 3, 4);", 3, r"\(1, 0, 0\): .*misaligned address"),
    "overflows": ("y[t] = (n << 20) * (n << 20) > 0;", 1, r"\(0, 0, 0\): .*overflow of int"),
    "some threads miss a barrier": ("""
        if (t < 40) __syncthreads();
        y[t] = t;""", 64, r"divergent: thread \(0, 0, 0\) waits at __syncthreads in line 4, thread \(40, 0, 0\) has ret"),
    "threads wait at two barriers": ("""
        if (t % 2) __syncthreads();
        else
            __syncthreads();
        y[t] = t;""", 64, r"divergent: thread \(0, 0, 0\) waits at __syncthreads in line 6, thread \(1, 0, 0\) .* line 4"),
    "a lane misses a shuffle": ("""
        if (t == 5) return;
        y[t] = warp_sum(x[t]);""", 64, rf"waits for its warp in line {SHUFFLE}, thread \(5, 0, 0\) has returned"),
    "a lane shuffles elsewhere": ("""
        if (t == 7) y[t] = __shfl_xor_sync(ALL_LANES, x[t], 1);
        else
            y[t] = __shfl_xor_sync(ALL_LANES, x[t], 1);""", 32,
                                  r"thread \(0, 0, 0\) waits for its warp in line 6, thread \(7, 0, 0\) waits .* line 4"),
    "a lane is not in its own mask": ("y[t] = __shfl_xor_sync(0xffffu, x[t], 1);", 32, r"thread \(16, 0, 0\): its lane"),
    "tensor cores with half a warp": ("""
        float d[4] = {}; u32 a[4] = {}, b[2] = {};
        mma_tf32(d, a, b);
        y[t] = d[0];""", 16, "a tensor-core product of fewer than 32 lanes"),
    "a grid barrier without a cooperative launch": ("""
        __shared__ u32 counter;
        if (t == 0) counter = 0;
        __syncthreads();
        grid_barrier(&counter);
        y[t] = 1;""", 32, "waits for another block; the launch is not cooperative"),
}


@pytest.mark.parametrize("text, threads, message", BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_caught(shim, kernel, text, threads, message):
    """And the next launch, of a right kernel, works."""
    n, blocks = 64, 2 if "blockIdx" in text or "grid_barrier" in text else 1
    x, y = floats(shim, n), shim.zeros(n, np.float32)
    with pytest.raises(ShimError, match=message):
        kernel(body(text))((blocks,), (threads,), (x, y, np.int32(n)), shared_mem=256)
    assert not y.get().any()                                                  # what failed leaves nothing behind
    kernel(body("if (t < n) y[t] = 2 * x[t];"))((1,), (96,), (x, y, np.int32(n)))
    assert np.array_equal(y.get(), 2 * x.get())


def test_a_kernel_that_never_ends(shim, kernel):
    k = kernel(body("while (*(volatile int*)&n) y[t] = 1;"))
    k.function.seconds = 1
    with pytest.raises(ShimError, match=r"thread \(0, 0, 0\): still runs when its time is over"):
        k((1,), (32,), (floats(shim, 32), floats(shim, 32), np.int32(1)))


POISONED = {
    "reads one too many": "y[t] = x[t + 1];",
    "reads in front": "y[t] = x[n - 2 - t];",
    "reads shared memory that nobody wrote": "__shared__ float s[64];\n if (t != 63) s[t] = x[t];\n y[t] = s[t];",
    "reads dynamic shared memory that nobody wrote":
        "extern __shared__ float s[];\n if (t != 63) s[t] = x[t];\n y[t] = s[t];",
    "reads what another block left in shared memory":
        "__shared__ float s[64];\n if (blockIdx.x == 0 || t != 63) s[t] = x[t];\n if (blockIdx.x) y[t] = s[t];",
}


@pytest.mark.parametrize("text", POISONED.values(), ids=POISONED)
def test_what_was_never_written_is_not_a_number(shim, kernel, text):
    y = shim.zeros(64, np.float32)
    kernel(body(text))((2 if "blockIdx" in text else 1,), (64,), (floats(shim, 64), y, np.int32(64)), shared_mem=256)
    assert np.isnan(y.get()[63]) and np.isfinite(y.get()[1:63]).all()


TRANSPOSE = '''
extern "C" __global__ void emonet_transpose(const float* x, float* y, int H, int W) {
    int i = blockIdx.y * blockDim.y + threadIdx.y, j = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < H && j < W) y[j * TO + i] = x[i * FROM + j];
}'''


def test_a_swapped_stride_is_caught_by_odd_sizes(shim, kernel):
    def run(H, W, source, to):
        x = np.random.default_rng(0).standard_normal((H, W)).astype(np.float32)
        y = shim.empty((W, H), np.float32)
        kernel(TRANSPOSE, FROM=source, TO=to)((4, 4), (4, 4), (shim.asarray(x), y, np.int32(H), np.int32(W)))
        with np.errstate(invalid="ignore"):                                    # the canaries are signalling
            return y.get() - x.T
    assert not run(9, 13, "W", "H").any() and not run(13, 9, "W", "H").any()
    with pytest.raises(ShimError, match="wrote behind y"):                    # strides too large leave the array,
        run(9, 13, "W", "W")
    with pytest.raises(ShimError, match="y depends on the order of threads"): # too small, they meet each other
        run(13, 9, "W", "W")
    assert np.isnan(run(13, 9, "H", "H")).any()                               # reading, they fetch NaN or wrong numbers
    assert np.nanmax(np.abs(run(9, 13, "H", "H"))) > 0.1
    assert not run(9, 9, "H", "W").any()                                      # and square sizes would hide all of it


# ---- arguments ----

def test_wrong_arguments_are_refused_by_name(shim, kernel):
    x, y = floats(shim, 4), shim.zeros(4, np.float32)
    k = kernel('extern "C" __global__ void __launch_bounds__(32) emonet_args(const float* __restrict__ x, // read, only\n'
               'float * y, /* (and writes) */ const u64 *table, int n, double a) { y[threadIdx.x] = x[n] + a; }')
    table, n, a = shim.zeros(2, np.uint64), np.int32(1), np.float64(0.5)
    k((1,), (4,), (x, y, table, n, a))
    assert np.array_equal(y.get(), [2.5] * 4)
    for wrong, message in [
            ((x, y, table, n), "emonet_args got 4 arguments, expected 5: x, y, table, n, a"),
            ((x, y, table, n, a, a), "emonet_args got 6 arguments, expected 5"),
            ((x, y, table, 1, a), r"emonet_args: n is a Python int, expected numpy\.int32"),
            ((x, y, table, np.int64(1), a), r"n is numpy\.int64, expected numpy\.int32"),
            ((x, y, table, n, np.float32(1)), r"a is numpy\.float32, expected numpy\.float64"),
            ((x, y.get(), table, n, a), "y is an array of float32 on the host, expected an array of float32 on the device"),
            ((x, y.astype(float), table, n, a), "y is an array of float64 on the device, expected an array of float32 on"),
            ((x, y, shim.zeros(2, np.int64), n, a), "table is an array of int64 on the device, expected an array of uint64"),
            ((x, np.float32(1), table, n, a), r"y is numpy\.float32, expected an array of float32 on the device"),
            ((x, y, table, shim.zeros(1, np.int32), a), r"n is an array of int32 on the device, expected numpy\.int32"),
            ((x, shim.zeros(8, np.float32)[::2], table, n, a), r"y of shape \(4,\) is not contiguous")]:
        with pytest.raises(launch.LaunchError, match=message):
            k((1,), (4,), wrong)


def test_what_launch_py_cannot_find_or_read(shim, kernel):
    with pytest.raises(FileNotFoundError, match=r"no nothing\.cu in .*cuda/sources or .*kernels/cuda"):
        launch.module("nothing")
    with pytest.raises(launch.LaunchError, match=r"pointwise\.cu has no kernel emonet_nothing: it has emonet_adam,"):
        launch.module("pointwise").kernel("emonet_nothing")
    with pytest.raises(launch.LaunchError, match="parameter 'half x' is none of float, double"):
        kernel('extern "C" __global__ void emonet_bug(half x) {}')
    with pytest.raises(ShimError, match=r"(?s)g\+\+ refuses the kernel:.*bug\.cu:3.*'?undeclared_name'?"):
        kernel(body("y[t] = undeclared_name;"))


@pytest.mark.parametrize("grid, block", [((0,), (32,)), ((1,), (1025,)), ((1,), (32, 64)), ((1, 65536), (1,)),
                                         ((1,), (1, 1, 65))])
def test_sizes_that_a_gpu_refuses(shim, kernel, grid, block):
    with pytest.raises(ShimError, match="a GPU refuses grid"):
        kernel(body("y[0] = 1;"))(grid, block, (floats(shim, 1), floats(shim, 1), np.int32(1)))


def test_large_shared_memory_is_asked_for_and_too_much_is_refused(shim, kernel):
    k = kernel(body("extern __shared__ __align__(16) float s[];\n s[n] = x[0]; y[0] = s[n];"))
    y = shim.zeros(1, np.float32)
    k((1,), (1,), (floats(shim, 1), y, np.int32(200 * 256 - 1)), shared_mem=200 << 10)
    assert y.get() == 1 and k.function.max_dynamic_shared_size_bytes == 200 << 10
    with pytest.raises(ShimError, match="a GPU refuses 234496 bytes of dynamic shared memory"):
        k((1,), (1,), (floats(shim, 1), y, np.int32(1)), shared_mem=229 << 10)


def test_a_table_of_pointers_leads_to_guarded_copies(shim, kernel):
    k = kernel('extern "C" __global__ void emonet_table(const u64* table, int n) {\n'
               'for (int i = 0; i < n; i++) ((float*)table[threadIdx.x])[i] *= 2; }')
    a, b = floats(shim, 3), floats(shim, 3)
    table = shim.asarray(np.array([a.data.ptr, b.data.ptr], np.uint64))
    before = table.get()
    k((1,), (2,), (table, np.int32(3)))
    assert np.array_equal(a.get(), [2, 4, 6]) and np.array_equal(b.get(), [2, 4, 6]) and np.array_equal(table.get(), before)
    with pytest.raises(ShimError, match="wrote behind an array in table, 1 elements off"):
        k((1,), (2,), (table, np.int32(4)))
    del b
    with pytest.raises(ShimError, match="table holds the address of an array that is dead"):
        k((1,), (2,), (table, np.int32(3)))


def test_views_of_one_array_stay_views(shim, kernel):
    """Overlapping arguments see each other's writes; neighbours that do not overlap get canaries of their own."""
    z = shim.zeros(8, np.float32)
    kernel(body("if (t < 4) y[t] = t;\n __syncthreads(); if (t >= 4) y[t - 1] = x[t - 4] + 10;"))(
        (1,), (6,), (z[:4], z[1:6], np.int32(4)))
    assert np.array_equal(z.get(), [0, 0, 1, 2, 10, 10, 0, 0])
    with pytest.raises(ShimError, match="wrote behind y"):
        kernel(body("y[t] = 1;"))((1,), (5,), (z[4:], z[:4], np.int32(4)))


# ---- what must work ----

WARPS = '''
extern "C" __global__ void emonet_warps(const float* x, float* y, u32* votes, double* total) {
    __shared__ double shared[32];
    int t = thread_number();
    u32 low = t % 32 < 16 ? 0xffffu : 0xffff0000u;
    y[t] = warp_sum(x[t]);
    y[t + 96] = __shfl_down_sync(ALL_LANES, x[t], 3);
    y[t + 192] = __shfl_up_sync(ALL_LANES, x[t], 3);
    y[t + 288] = __shfl_sync(ALL_LANES, x[t], 7);
    y[t + 384] = __shfl_xor_sync(low, x[t], 1);              // half a warp at a time
    votes[t] = __ballot_sync(ALL_LANES, t % 3 == 0);
    votes[t + 96] = __any_sync(ALL_LANES, t == 40) * 2 + __all_sync(ALL_LANES, t < 64);
    __syncwarp();
    total[t] = block_sum((double)x[t], shared) + block_sum(1.0, shared);
    atomicAdd(votes + 192, 1u);
}'''


def test_shuffles_votes_and_sums(shim, kernel):
    x = np.random.default_rng(0).standard_normal(96).astype(np.float32)
    y, votes, total = shim.empty((5, 96), np.float32), shim.zeros(193, np.uint32), shim.empty(96, np.float64)
    kernel(WARPS)((1,), (8, 3, 4), (shim.asarray(x), y, votes, total))
    rows, (sums, down, up, seventh, half) = x.reshape(3, 32), y.get().reshape(5, 3, 32)
    assert np.allclose(sums, rows.sum(1, keepdims=True), atol=32 * EPS) and (sums == sums[:, :1]).all()
    assert np.array_equal(down, np.hstack([rows[:, 3:], rows[:, -3:]]))
    assert np.array_equal(up, np.hstack([rows[:, :3], rows[:, :-3]]))
    assert np.array_equal(seventh, np.repeat(rows[:, 7:8], 32, 1))
    assert np.array_equal(half, rows.reshape(3, 16, 2)[..., ::-1].reshape(3, 32))
    want = [sum(1 << i for i in range(32) if (32 * w + i) % 3 == 0) for w in range(3)]
    assert np.array_equal(votes.get()[:96].reshape(3, 32), np.repeat(want, 32).reshape(3, 32))
    assert np.array_equal(votes.get()[96:192].reshape(3, 32)[:, 0], [1, 3, 0]) and votes.get()[192] == 96
    assert np.allclose(total.get(), x.astype(float).sum() + 96, rtol=1e-14)


RING = '''
extern "C" __global__ void emonet_ring(float* x, u32* counter, int rounds) {
    extern __shared__ float s[];
    __shared__ float mine;
    if (threadIdx.x == 0) mine = blockIdx.x;
    for (int k = 0; k < rounds; k++) {
        s[threadIdx.x] = x[(blockIdx.x + 1) % gridDim.x * blockDim.x + threadIdx.x];
        BARRIER;
        x[blockIdx.x * blockDim.x + threadIdx.x] = s[threadIdx.x] + mine;
        grid_barrier(counter);
    }
}'''


def test_a_cooperative_launch(shim, kernel):
    """All blocks at once, each with shared memory of its own; without one of the barriers the order of blocks shows."""
    x, want = np.random.default_rng(0).integers(0, 99, (5, 32)).astype(np.float32), 0
    want = x.copy()
    for _ in range(3):
        want = np.roll(want, -1, 0) + np.arange(5, dtype=np.float32)[:, None]

    def run(barrier, counter=0, cooperative=True):
        y = shim.asarray(x)
        kernel(RING, cooperative, BARRIER=barrier)(
            (5,), (32,), (y, shim.asarray(np.array([counter], np.uint32)), np.int32(3)), shared_mem=128)
        return y.get()
    assert np.array_equal(run("grid_barrier(counter)"), want)
    with pytest.raises(ShimError, match="x depends on the order of threads"):
        run("__syncthreads()")
    with pytest.raises(ShimError, match="waits for other blocks, and they for it"):
        run("if (blockIdx.x) grid_barrier(counter)")
    with pytest.raises(ShimError, match="the launch is not cooperative"):
        run("grid_barrier(counter)", cooperative=False)


PRODUCT = '''
// One warp: d (16, 8) = a (16, K) b (K, 8), every element fetched by the layout in common.cuh.
extern "C" __global__ void emonet_product(const float* a, const float* b, float* d) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    float r[4] = {1, 1, 1, 1};
#if K == 8
    u32 fa[4], fb[2];
    for (int i = 0; i < 4; i++) fa[i] = __float_as_uint(to_tf32(a[(g + ROW(i) * 8) * 8 + t + COLUMN(i) * 4]));
    for (int i = 0; i < 2; i++) fb[i] = __float_as_uint(to_tf32(b[(t + 4 * i) * 8 + g]));
    mma_tf32(r, fa, fb);
#else
    u32 fa[4], fb[2];
    for (int i = 0; i < 4; i++) {
        const float* p = a + (g + ROW(i) * 8) * 16 + 2 * t + COLUMN(i) * 8;
        fa[i] = pack_bf16(p[0], p[1]);
    }
    for (int i = 0; i < 2; i++) fb[i] = pack_bf16(b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 1 + 8 * i) * 8 + g]);
    mma_bf16(r, fa, fb);
#endif
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = r[i];
}'''


def rounded(x, bits):
    """x with so many bits of mantissa, as NumPy computes it."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2**bits), exponent - bits)


@pytest.mark.parametrize("K, bits", [(8, 11), (16, 8)], ids=["tf32", "bf16"])
def test_tensor_core_products(shim, kernel, K, bits):
    """Equal to the product of the rounded matrices; a swap of two registers, and float32 exactness, would show."""
    rng = np.random.default_rng(0)
    a, b, d = rng.standard_normal((16, K)).astype(np.float32), rng.standard_normal((K, 8)).astype(np.float32), None
    want = 1 + rounded(a, bits).astype(float) @ rounded(b, bits).astype(float)

    def run(row, column):
        d = shim.empty((16, 8), np.float32)
        kernel(PRODUCT, K=K, **{"ROW(i)": row, "COLUMN(i)": column})((1,), (32,), (shim.asarray(a), shim.asarray(b), d))
        return d.get()
    d = run("(i % 2)", "(i / 2)")
    assert np.abs(d - want).max() <= 4 * EPS * np.abs(want).max()
    assert np.abs(d - 1 - a.astype(float) @ b).max() > 2.0**(-bits - 4)
    assert np.abs(run("(i / 2)", "(i % 2)") - want).max() > 0.1


def test_roundings(shim, kernel):
    k = kernel('extern "C" __global__ void emonet_round(const float* x, float* y, u32* z) {\n'
               'y[threadIdx.x] = to_tf32(x[threadIdx.x]); z[threadIdx.x] = pack_bf16(x[threadIdx.x], 1); }')
    x = np.array([1, 1 + 2**-11, 1 + 2**-11 - 2**-20, -1 - 3 * 2**-11, 1e-42, np.inf, -np.inf, np.nan, 1 + 2**-8,
                  1 + 3 * 2**-8, 3.4e38], np.float32)
    y, z = shim.empty(11, np.float32), shim.empty(11, np.uint32)
    k((1,), (11,), (shim.asarray(x), y, z))
    tf32 = y.get()
    assert np.array_equal(tf32[:4], [1, 1 + 2**-10, 1, -1 - 2**-9])
    assert np.array_equal(tf32[5:7], x[5:7]) and np.isnan(tf32[7])
    low, high = z.get() & 0xffff, z.get() >> 16
    bf16 = (low << 16).astype(np.uint32).view(np.float32)
    assert (high == 0x3f80).all() and np.array_equal(bf16[8:10], [1, 1 + 2**-6]) and np.isnan(bf16[7]) and np.isinf(bf16[10])
