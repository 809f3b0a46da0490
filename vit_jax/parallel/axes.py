"""Names of the device mesh's axes; the only part of this folder that models import."""

# Outermost first. replica: the slow network between pods or hosts; data: replicated data
# parallelism; fsdp: data parallelism with sharded parameters; tensor: heads and MLP width.
AXES = ("replica", "data", "fsdp", "tensor")
# Axes over which the batch is split.
BATCH_AXES = ("replica", "data", "fsdp")
