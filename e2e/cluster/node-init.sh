#!/bin/bash
# PID 1 of node $NODE: mounts what is its own, imports the images, and runs containerd, kubelet and kube-proxy.
set -euo pipefail
echo "$NODE" >/proc/sys/kernel/hostname
mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p /run/containerd /run/lock /run/netns
for directory in $NODE_DIRECTORIES; do
  mkdir -p "$NODE_DATA$directory"
  mount --bind "$NODE_DATA$directory" "$directory"
done

# Mounted anew in the cgroup namespace, so that the node sees its own containers only.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  umount /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # A cgroup that hands on controllers may have no processes itself.
  mkdir -p /sys/fs/cgroup/init
  while read -r pid; do echo "$pid" >/sys/fs/cgroup/init/cgroup.procs || true; done </sys/fs/cgroup/cgroup.procs
  sed 's/ / +/g; s/^/+/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
  for hierarchy in /sys/fs/cgroup/*/; do
    [ ! -L "${hierarchy%/}" ] || continue
    name=$(basename "$hierarchy")
    umount "$hierarchy"
    case $name in
      unified) mount -t cgroup2 cgroup2 "$hierarchy" ;;
      systemd) mount -t cgroup -o none,name=systemd cgroup "$hierarchy" ;;
      *) mount -t cgroup -o "$name" cgroup "$hierarchy" ;;
    esac
  done
fi
# These are the network namespace's own.
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter

log=$CLUSTER_LOGS/$NODE
containerd --config "$NODE_DATA/containerd.toml" >>"$log-containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.05; done
if [ ! -e "$NODE_DATA/imported" ]; then
  ctr --namespace k8s.io images import "$NODE_IMAGES" >"$log-import.log" 2>&1
  touch "$NODE_DATA/imported"
fi
kubelet --config="$NODE_DATA/kubelet.json" --kubeconfig="$NODE_KUBECONFIG" --hostname-override="$NODE" \
  --node-ip="$NODE_ADDRESS" --node-labels="topology.kubernetes.io/zone=$NODE_ZONE" >>"$log-kubelet.log" 2>&1 &
kube-proxy --kubeconfig="$PROXY_KUBECONFIG" --proxy-mode=nftables --cluster-cidr="$POD_NETWORK" \
  --hostname-override="$NODE" --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s \
  --conntrack-tcp-timeout-close-wait=0s >>"$log-kube-proxy.log" 2>&1 &

# Collects the processes that containers leave behind. What has ended stays ended: a kubelet that died is a fault.
set +e
while :; do wait -n || sleep 1; done
