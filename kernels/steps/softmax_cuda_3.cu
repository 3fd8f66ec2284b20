// Softmax cross-entropy with its gradient, version 3 of 3: what ships, a warp a row. Arguments as in
// softmax_cuda_1.cu.
// Grid: any number of blocks of 256 threads, up to N; a block leaves one number in losses.
//
// What is new: the 32 threads of a warp share a row and exchange what they have found from register to
// register, by shuffles (warp_sum in kernels/cuda/common.cuh). The row's part of the loss stays in a register
// until the block has done all its rows; there it goes through shared memory, once.
// Why it is faster: a warp runs in step, so a reduction is five shuffles and no barrier, and 8 rows in a
// block wait for nothing of each other. Reads are still of neighbours. With seven classes 25 threads idle and
// not 249.
// What limits it: memory for long rows, which are read three times, the later ones mostly from the caches;
// for short ones the launch itself, which is why the gradient is made in the same one.

#include "../cuda/common.cuh"
#include "../cuda/pointwise.cu"
