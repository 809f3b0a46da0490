# shellcheck shell=bash
# NVIDIA H100 and H200.
XLA_FLAGS=${XLA_FLAGS:-}
# Collectives run beside computation, which is off by default: a ViT's layers are long enough.
XLA_FLAGS+=" --xla_gpu_enable_latency_hiding_scheduler=true"
# One large all-reduce uses the network better than one a layer.
XLA_FLAGS+=" --xla_gpu_all_reduce_combine_threshold_bytes=134217728"
XLA_FLAGS+=" --xla_gpu_all_gather_combine_threshold_bytes=134217728"
XLA_FLAGS+=" --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728"
export XLA_FLAGS
# The default, three quarters of the memory, leaves the rest unused; NCCL wants some.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
# A rank that hangs says where: warnings only, information floods the log.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# NVLink's switches add up the gradients themselves; no NVLS on older cards.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-1}
