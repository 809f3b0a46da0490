# shellcheck shell=bash
# TPU v6e.
LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}
# The gradients of all layers are summed as one group, whatever their sizes.
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_data_parallel_all_reduce_opt=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_data_parallel_opt_different_sized_ops=true"
# The collectives of fsdp run beside the matrix products of the layer before, over several steps.
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion_multiple_steps=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_overlap_compute_collective_tc=true"
# Its 128 MiB of vector memory let fusions work on larger tiles than the default of 16 MiB does.
LIBTPU_INIT_ARGS+=" --xla_tpu_scoped_vmem_limit_kib=98304"
export LIBTPU_INIT_ARGS
