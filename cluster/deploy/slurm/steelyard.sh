#!/bin/bash
# One run on Slurm: sbatch --nodes=1 --gpus-per-node=8 cluster/deploy/slurm/steelyard.sh beaver_7b [key=value ...]
# A head on the first node, a worker on every other, the job on the head; all end with it. Submit again to go on.
#SBATCH --job-name=steelyard
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@660
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch [...] $0 CONFIG [key=value ...]" >&2
    exit 2
fi

# Where the project and its .venv are, and where runs go: both on a file system that every node has.
project=${STEELYARD_PROJECT:-$SLURM_SUBMIT_DIR}
storage=${STEELYARD_STORAGE:-$project/runs}
port=${STEELYARD_PORT:-6379}
state=$storage/.slurm-$SLURM_JOB_ID
export PATH=$project/.venv/bin:$PATH PYTHONPATH=$project
cd "$project"

# A token of this job alone, in a file that only this user can read. Other users of the nodes cannot use the cluster.
umask 077
mkdir -p "$state"
python -c 'import secrets; print(secrets.token_hex(32))' >"$state/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
# The grace of a run that is stopped. From 60 s on it finishes the step it is in, writes a checkpoint and exits with 5; with less it ends
# at once, and the checkpoint before is intact. The signal above comes this much, and a minute, before the time is up.
export RAY_JOB_STOP_WAIT_TIME_S=600

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
devices=(--num-cpus="${SLURM_CPUS_ON_NODE:-1}")
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then devices+=(--num-gpus="$SLURM_GPUS_ON_NODE"); fi

# shellcheck disable=SC2317  # the trap calls it
finish() {
    # Only this job's own steps: other clusters of the node stay.
    kill "${steps[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$state"
}
steps=()
trap finish EXIT

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    ray start --head --block --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${devices[@]}" &
steps+=($!)
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" ray start --block --address="$address:$port" "${devices[@]}" &
    steps+=($!)
done

# Until every node has come, and then the run itself, on the head.
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    env RAY_ADDRESS="$address:$port" NODES="${#nodes[@]}" python - <<'PY'
import os, sys, time

import ray

wanted, until = int(os.environ["NODES"]), time.monotonic() + 300
while True:
    try:
        if not ray.is_initialized():
            ray.init(address="auto", log_to_driver=False)
        there = sum(node["Alive"] for node in ray.nodes())
        if there >= wanted:
            sys.exit(0)
        said = f"{there} of {wanted} nodes"
    except ConnectionError as error:
        said = str(error)
    if time.monotonic() > until:
        sys.exit(f"error: the Ray cluster is not complete after 300 s: {said}")
    time.sleep(2)
PY

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    env RAY_ADDRESS="$address:$port" python -m cluster.job "$@" storage="$storage" &
run=$!
# A signal before the trap ends the script, and the run has to end with the steps.
steps+=("$run")
trap 'kill -TERM "$run" 2>/dev/null || true' TERM
# A signal interrupts the wait: wait again until the run has ended.
wait "$run" || true
while kill -0 "$run" 2>/dev/null; do wait "$run" || true; done
# The run's own code, also where it ended while the signal was handled: bash keeps it.
code=0
wait "$run" || code=$?
exit "$code"
