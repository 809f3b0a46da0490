# shellcheck shell=bash
# TPU v3: the compiler's scheduler knows no asynchronous collectives for it; data parallel.
LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}
# The gradients of all layers are summed as one group, whatever their sizes.
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_data_parallel_all_reduce_opt=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_data_parallel_opt_different_sized_ops=true"
export LIBTPU_INIT_ARGS
