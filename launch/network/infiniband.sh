# shellcheck shell=bash
# NCCL over InfiniBand, as on CoreWeave: its adapters are named ibp...; elsewhere see ibv_devices.
export NCCL_IB_HCA=${NCCL_IB_HCA:-ibp}
# Processes meet over the ordinary network.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-eth0}
