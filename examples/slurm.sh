#!/bin/bash
# A training on several machines under Slurm: sbatch examples/slurm.sh --data AFEW --preset default
#
# Arguments are those of `emonet train`. The run lies in $EMONET_OUT (runs/slurm-JOB by default), which all machines share; a
# job that Slurm puts back into the queue goes on there, with as many ranks as it gets then, up to the run's shards.
# EMONET_MPI: how srun starts MPI, --mpi=pmi2 by default (`srun --mpi=list` says what there is). docs/scale.md has the rest.
#SBATCH --job-name=emonet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
export EMONET_THREADS=${SLURM_CPUS_PER_TASK:-1} OPENBLAS_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}            # srun does not take it over from sbatch everywhere
out=${EMONET_OUT:-runs/slurm-$SLURM_JOB_ID}
if [ -e "$out/config.json" ]; then
    set -- --resume "$out"
else
    set -- "$@" --out "$out"
fi
# MPICH names its shared memory after job and step, and what killed ranks left of it would be taken for its own: another step.
for _ in $(seq "${SLURM_RESTART_COUNT:-0}"); do srun --mpi=none --ntasks=1 true; done
exec srun "${EMONET_MPI:---mpi=pmi2}" --kill-on-bad-exit=1 "${PYTHON:-python}" -m emonet_scratch train --ranks "$@"
