#!/bin/bash
# Powers node $NODE on: enters its cgroups and its network namespace, and becomes the parent of its PID 1. SIGKILL to
# this process is a power loss.
set -euo pipefail
for cgroup in $NODE_CGROUPS; do echo $$ >"$cgroup/cgroup.procs"; done
exec nsenter --net="/run/netns/$NODE_NETWORK" \
  unshare --cgroup --uts --ipc --mount --pid --fork --kill-child --mount-proc bash "$(dirname "$0")/node-init.sh"
