// One layer of LSTM over all steps in one launch (persistent kernels, as in Diamos et al. 2016, "Persistent RNNs").
//
//     a = x W_ih + b + h_prev W_hh       c = f c_prev + i g       h = o tanh(c)       gates in the order i f g o
//
// The products with W_ih of all steps are one matrix product before the launch. What has to wait for the step before is
// h W_hh: every block owns UNITS hidden units, keeps the part of W_hh that makes them in shared memory, and meets the other
// blocks once a step, when h (backward: the gradients da) of all units is in memory. A step then moves N H numbers of h
// through the second-level cache and no weights; the definition reads the whole of W_hh, 16 H H bytes, in every step.
//
// Where t has reached lengths[n], sequence n has ended: its state is carried on unchanged, y and da are 0.
// Shared memory: forward 4 (36 H + 16 (H + 2)) bytes and 16 rows of sums; backward 16 H UNITS bytes.
//
// Forward, a step of a block is (16, H) x (H, 32). A thread holds 4 x 4 of the sums, over every eighth k; 8 neighbouring lanes
// share a tile and add up by shuffles. So 5 loads from shared memory serve 16 multiply-adds, and no two lanes meet in a bank:
// rows of weights are 36 floats apart, so 8 values of k lie 4 banks apart; rows of states H + 2, so with 32 | H four rows lie
// 8 banks apart.
// Grid: ceil(H / UNITS) blocks of 256 threads, launched cooperatively: all of them run at once. *counter must be 0.

#define THREADS 256
#define WARPS (THREADS / 32)
#define ROWS 16                         // sequences that a block takes at a time
#define COLUMNS (4 * UNITS)             // 32: 4 for each of 8 warps
#define WS (COLUMNS + 4)                // floats from row to row of the weights ...
#define SS (H + 2)                      // ... and of the states

__device__ __forceinline__ float sigmoid(float a) { return 0.5f * (1 + tanhf(0.5f * a)); }

// a (T, N, 4H): x W_ih + b, overwritten by the gates after their functions; W_hh (H, 4H); lengths (N);
// h (2, N, H): the first half holds the initial state, the halves change places with every step, so that the final state
// is in half T % 2; c (N, H): initial state, overwritten by the final one; y (T, N, H), h_prev (T, N, H), c_prev (T, N, H),
// tanh_c (T, N, H) overwritten. Kernel of LSTM.forward, one layer.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_lstm_forward(int T, int N, int H, float* __restrict__ a, const float* __restrict__ W_hh,
                    const int* __restrict__ lengths, float* h, float* __restrict__ c, float* __restrict__ y,
                    float* __restrict__ h_prev, float* __restrict__ c_prev, float* __restrict__ tanh_c, u32* counter) {
    extern __shared__ __align__(16) float shared[];
    __shared__ float sums[ROWS][COLUMNS];
    float *weights = shared, *states = shared + (i64)H * WS;                  // (H, WS), (ROWS, SS)
    int tid = threadIdx.x, u0 = blockIdx.x * UNITS;
    int share = tid % 8, r0 = tid % 32 / 8 * 4, c0 = tid / 32 * 4;            // this thread's part of k, rows, columns
    for (int e = tid; e < H * COLUMNS; e += THREADS) {
        int k = e / COLUMNS, q = e % COLUMNS / UNITS, unit = u0 + e % UNITS;
        weights[k * WS + e % COLUMNS] = unit < H ? W_hh[(i64)k * 4 * H + q * H + unit] : 0;
    }
    for (int t = 0; t < T; t++) {
        const volatile float* now = h + (i64)(t % 2) * N * H;                 // written by other blocks: not from L1
        float* next = h + (i64)((t + 1) % 2) * N * H;
        for (int n0 = 0; n0 < N; n0 += ROWS) {
            int rows = N - n0 < ROWS ? N - n0 : ROWS;
            for (int e = tid; e < ROWS * H; e += THREADS) states[e / H * SS + e % H] = e < rows * H ? now[(i64)n0 * H + e] : 0;
            __syncthreads();
            float tile[4][4] = {};
#pragma unroll 4
            for (int k = share; k < H; k += 8) {
                float w[4];
                load4(w, weights + k * WS + c0);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) tile[i][j] += states[(r0 + i) * SS + k] * w[j];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float sum = tile[i][j];
                    for (int distance = 1; distance < 8; distance *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
                    if (share == 0) sums[r0 + i][c0 + j] = sum;
                }
            __syncthreads();
            for (int e = tid; e < rows * UNITS; e += THREADS) {
                int r = e / UNITS, u = e % UNITS, n = n0 + r, unit = u0 + u;
                if (unit >= H) continue;
                i64 at = ((i64)t * N + n) * H + unit, mine = (i64)n * H + unit;
                float* gates = a + ((i64)t * N + n) * 4 * H + unit;
                float in = sigmoid(gates[0] + sums[r][u]), forget = sigmoid(gates[H] + sums[r][UNITS + u]);
                float g = tanhf(gates[2 * H] + sums[r][2 * UNITS + u]), out = sigmoid(gates[3 * H] + sums[r][3 * UNITS + u]);
                float before = c[mine], after = forget * before + in * g, tanh_after = tanhf(after);
                float old = states[r * SS + unit];
                bool inside = t < lengths[n];
                gates[0] = in, gates[H] = forget, gates[2 * H] = g, gates[3 * H] = out;
                h_prev[at] = old, c_prev[at] = before, tanh_c[at] = tanh_after;
                if (inside) c[mine] = after;
                y[at] = inside ? out * tanh_after : 0;
                next[mine] = inside ? out * tanh_after : old;
            }
            __syncthreads();                                                  // before states and sums are used again
        }
        grid_barrier(counter);
    }
}

// Backpropagation through time: from dy (T, N, H) and the gradients dh, dc (N, H) of the final state, both overwritten by
// those of the initial state, to da (T, N, 4H), overwritten. gates, c_prev, tanh_c, W_hh, lengths as forward left them;
// truncate: after so many steps no gradient goes on to the step before, 0: never. With d = dh + dy_t:
//     dc += d o (1 - tanh(c)^2)     da_i = dc g i (1 - i)     da_f = dc c_prev f (1 - f)     da_g = dc i (1 - g^2)
//     da_o = d tanh(c) o (1 - o)    dc_prev = dc f            dh_prev = da W_hh^T
// Kernel of LSTM.backward, one layer; the gradients of the weights are matrix products after the launch.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_lstm_backward(int T, int N, int H, int truncate, const float* __restrict__ gates, const float* __restrict__ W_hh,
                     const int* __restrict__ lengths, const float* __restrict__ c_prev, const float* __restrict__ tanh_c,
                     const float* __restrict__ dy, float* __restrict__ dh, float* __restrict__ dc, float* da,
                     u32* counter) {
    extern __shared__ float weights[];                                        // (UNITS, 4H): this block's rows of W_hh
    int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    int u0 = blockIdx.x * UNITS, units = H - u0 < UNITS ? H - u0 : UNITS;
    for (int e = tid; e < UNITS * 4 * H; e += THREADS)
        weights[e] = e / (4 * H) < units ? W_hh[(i64)u0 * 4 * H + e] : 0;
    for (int t = T - 1; t >= 0; t--) {
        for (int e = tid; e < N * units; e += THREADS) {
            int n = e / units, unit = u0 + e % units;
            i64 at = ((i64)t * N + n) * H + unit, mine = (i64)n * H + unit;
            const float* s = gates + ((i64)t * N + n) * 4 * H + unit;
            float* to = da + ((i64)t * N + n) * 4 * H + unit;
            bool inside = t < lengths[n];
            float in = s[0], forget = s[H], g = s[2 * H], out = s[3 * H], tc = tanh_c[at];
            float d = dh[mine] + dy[at], d_cell = dc[mine] + d * out * (1 - tc * tc);
            to[0] = inside ? d_cell * g * in * (1 - in) : 0;
            to[H] = inside ? d_cell * c_prev[at] * forget * (1 - forget) : 0;
            to[2 * H] = inside ? d_cell * in * (1 - g * g) : 0;
            to[3 * H] = inside ? d * tc * out * (1 - out) : 0;
            if (inside) dc[mine] = d_cell * forget;
        }
        grid_barrier(counter);                                                // da of this step is there, from all blocks
        bool cut = truncate && t && t % truncate == 0;
        for (int n0 = warp; n0 < N; n0 += 2 * WARPS) {                        // two sequences a warp, lanes share the sums
            const volatile float* rows = da + ((i64)t * N + n0) * 4 * H;
            i64 other = n0 + WARPS < N ? (i64)WARPS * 4 * H : 0;              // without another, the same one twice
            float sums[2][UNITS] = {};
            for (int k = lane; k < 4 * H; k += 32) {
                float one = rows[k], two = rows[other + k];
#pragma unroll
                for (int u = 0; u < UNITS; u++) {
                    float w = weights[u * 4 * H + k];
                    sums[0][u] += one * w, sums[1][u] += two * w;
                }
            }
#pragma unroll
            for (int e = 0; e < 2 * UNITS; e++) {
                float sum = warp_sum(sums[e / UNITS][e % UNITS]);
                int n = n0 + e / UNITS * WARPS, u = e % UNITS;
                i64 mine = (i64)n * H + u0 + u;
                if (lane || u >= units || n >= N) continue;
                if (t >= lengths[n]) continue;                                // what reaches its end waits there
                dh[mine] = cut ? 0 : sum;
                if (cut) dc[mine] = 0;
            }
        }
        __syncthreads();                                                      // dh and dc are read by others
    }
}
