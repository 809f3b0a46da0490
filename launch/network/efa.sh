# shellcheck shell=bash
# NCCL over EFA, the network between GPU instances of AWS (p4d, p4de, p5, p5e, p5en, p6).
# NCCL finds EFA by the plugin aws-ofi-nccl; AWS's images have it here. Without it NCCL uses TCP and
# says nothing: config.parallel.check_network measures it.
export LD_LIBRARY_PATH=/opt/amazon/ofi-nccl/lib:/opt/amazon/efa/lib:${LD_LIBRARY_PATH:-}
export FI_PROVIDER=${FI_PROVIDER:-efa}
# Huge pages are scarce where processes fork.
export FI_EFA_USE_HUGE_PAGE=${FI_EFA_USE_HUGE_PAGE:-0}
# Processes meet over the ordinary network, not over those of containers.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^docker,lo,veth}
