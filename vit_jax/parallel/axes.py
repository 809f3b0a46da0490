"""Names of the device mesh's axes; the only part of this folder that models import."""

# Outermost first. replica: the slow network between pods or hosts; data: replicated data
# parallelism; fsdp: data parallelism with sharded parameters; sequence: the tokens of an image;
# tensor: heads and MLP width.
AXES = ("replica", "data", "fsdp", "sequence", "tensor")
# Axes over which the batch is split.
BATCH_AXES = ("replica", "data", "fsdp")
SEQUENCE_AXIS, TENSOR_AXIS = "sequence", "tensor"
