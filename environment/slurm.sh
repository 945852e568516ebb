#!/usr/bin/env bash
# A run on Slurm: Ray's head on the first node, a Ray worker on every other, then the run on the first node.
# Not run on a cluster. The checkout, its .venv-gpu (make setup PRESET=gpu-32b), runs/ and models/ lie on a file system that all nodes share.
#   sbatch environment/slurm.sh gpu-32b --set placement.sandbox_hosts=4
#SBATCH --job-name=biomni-r0
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=48:00:00
set -euo pipefail
cd "${SLURM_SUBMIT_DIR}"
PRESET=${1:-gpu-32b}
shift || true
RAY="$PWD/.venv-gpu/bin/ray"
PORT=6379
export RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0 # Ray's own 15 starves engines and sandboxes beside the learner

# Who joins must know this token, which Ray keeps in the home folder that the nodes share.
export RAY_AUTH_MODE=token
[ -f "$HOME/.ray/auth_token" ] || "$RAY" get-auth-token --generate > /dev/null

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=$(srun --nodes=1 --ntasks=1 -w "${NODES[0]}" hostname --ip-address | awk '{print $1}')
on() { srun --nodes=1 --ntasks=1 --overlap -w "$1" "${@:2}"; }

on "${NODES[0]}" "$RAY" start --head --node-ip-address="$HEAD" --port=$PORT --include-dashboard=false --block &
for node in "${NODES[@]:1}"; do
  on "$node" "$RAY" start --address="$HEAD:$PORT" --block &
done
until [ "$(on "${NODES[0]}" "$RAY" status --address="$HEAD:$PORT" 2> /dev/null | grep -c ' node_')" -ge "${#NODES[@]}" ]; do
  sleep 5
done

# Started again after an interruption, the same command goes on at the last checkpoint.
on "${NODES[0]}" .venv-gpu/bin/python -m biomni_lib.stages reproduce --preset "$PRESET" \
  --set placement.address="$HEAD:$PORT" "$@"
