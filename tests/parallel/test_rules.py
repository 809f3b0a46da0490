"""Meshes and the table that says how parameters are cut."""

import dataclasses

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import PartitionSpec as P

from vit_jax import config as configs
from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.parallel.mesh import _arrange, check_batch_size, create_mesh, mesh_sizes
from vit_jax.parallel.rules import (
    check_replication,
    describe,
    partition_spec,
    state_shardings,
)
from vit_jax.plan.compile import topology_devices

BOTH = dict(replica=1, data=1, fsdp=4, tensor=2)


def parallel(**sizes):
    section = configs.default().parallel
    section.update(sizes)
    return section


# ViT-L/16: shapes from table 1 (D = 1024, MLP 4096, 16 heads of 64, 24 layers).
@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("blocks/attention/qkv/kernel", (24, 1024, 3, 16, 64), P(None, "fsdp", None, "tensor")),
        ("blocks/attention/out/kernel", (24, 16, 64, 1024), P(None, "tensor", None, "fsdp")),
        ("blocks/mlp/fc1/kernel", (24, 1024, 4096), P(None, "fsdp", "tensor")),
        ("blocks/mlp/fc2/kernel", (24, 4096, 1024), P(None, "tensor", "fsdp")),
        ("blocks/mlp/fc1/bias", (24, 4096), P(None, "tensor")),
        ("blocks/mlp/gated/kernel", (24, 1024, 2, 2736), P(None, "fsdp", None, "tensor")),
        ("blocks/mlp/gated/bias", (24, 2, 2736), P(None, None, "tensor")),
        ("blocks/mlp/fc2/bias", (24, 1024), P()),  # small
        ("blocks/norm1/scale", (24, 1024), P()),
        ("embedding/kernel", (16, 16, 3, 1024), P(None, None, None, "fsdp")),
        ("posemb/embedding", (1, 197, 1024), P(None, None, "fsdp")),
        ("blocks/posemb/embedding", (24, 1, 197, 1024), P(None, None, None, "fsdp")),
        ("posemb/offsets", (391, 16, 64), P(None, "tensor", "fsdp")),
        ("blocks/attention/relative/rows", (24, 2047, 16, 32), P(None, None, "tensor", "fsdp")),
        ("blocks/row/attention/out/kernel", (24, 16, 64, 1024), P(None, "tensor", None, "fsdp")),
        ("head/kernel", (1024, 21843), P("fsdp")),
        ("cls", (1, 1, 1024), P()),
    ],
)
def test_the_table_at_vit_l16(path, shape, spec):
    assert partition_spec(path, shape, BOTH) == spec


@pytest.mark.parametrize(
    ("path", "shape", "by_16", "by_128"),
    [
        ("qkv/kernel", (24, 1024, 3, 16, 64), P(None, None, None, "fsdp"), P(None, "fsdp")),
        ("out/kernel", (24, 16, 64, 1024), P(None, "fsdp"), P(None, None, None, "fsdp")),
    ],
)
def test_fsdp_splits_heads_where_it_divides_them(path, shape, by_16, by_128):
    assert partition_spec(f"blocks/attention/{path}", shape, dict(fsdp=16)) == by_16
    assert partition_spec(f"blocks/attention/{path}", shape, dict(fsdp=128)) == by_128


def test_the_layer_axis_is_never_cut():
    # 64 layers would be the largest axis that 8 divides.
    spec = partition_spec("blocks/mlp/fc2/kernel", (64, 31, 1024), dict(fsdp=8), min_elements=0)
    assert spec == P(None, None, "fsdp")
    assert partition_spec("blocks/norm1/scale", (64, 33), dict(fsdp=8), min_elements=0) == P()


def test_sizes():
    assert mesh_sizes(parallel(fsdp=2), 8) == dict(replica=1, data=4, fsdp=2, sequence=1, tensor=1)
    mesh = create_mesh(parallel(replica=2, data=-1, tensor=2))
    assert dict(mesh.shape) == dict(replica=2, data=2, fsdp=1, sequence=1, tensor=2)
    assert len(set(mesh.devices.flat)) == 8


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(fsdp=3), "fsdp=3 .*does not fit 8 devices"),
        (dict(data=-1, fsdp=-1), "only one mesh axis may be -1"),
        (dict(tensor=0), "at least 1"),
        (dict(data=4), "product of the sizes must be 8"),
    ],
)
def test_meshes_that_do_not_fit(sizes, message):
    with pytest.raises(InputError, match=message):
        mesh_sizes(parallel(**sizes), 8)


def two_slices():
    """Two TPU slices of 4x4 that nobody owns."""
    pytest.importorskip("libtpu")
    topology_devices("v5e:1x1")  # tells the compiler that there are no TPUs here
    return topologies.get_topology_desc("v5e:4x4", "tpu", num_slices=2).devices


@pytest.mark.parametrize(
    "sizes", [dict(replica=2), dict(replica=2, data=2, fsdp=8), dict(replica=4, data=1, fsdp=8)]
)
def test_replica_crosses_the_network_between_slices_and_nothing_else_does(sizes):
    mesh = create_mesh(parallel(**sizes), two_slices())
    inside = [{device.slice_index for device in part.flat} for part in mesh.devices]
    half = sizes["replica"] // 2
    assert inside == [{0}] * half + [{1}] * half


def test_another_axis_may_not_cross_between_slices():
    with pytest.raises(InputError, match="replica is 1, and only.*2 slices: give .*replica=2"):
        create_mesh(parallel(fsdp=16), two_slices())


@dataclasses.dataclass(frozen=True)
class Gpu:
    """JAX shows each host's GPUs as a slice."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


def test_replica_crosses_the_network_between_hosts():
    devices = [Gpu(i, slice_index=i % 2) for i in range(8)]  # in no helpful order
    arranged = _arrange((2, 2, 2, 1), devices)
    assert [{device.slice_index for device in part.flat} for part in arranged] == [{0}, {1}]
    assert len(set(_arrange((1, 8, 1, 1), devices).flat)) == 8


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "nearest"),
    [(13, 1, 16), (11, 1, 8), (3, 1, 8), (40, 2, 32), (0, 1, 8), (-1, 1, 8)],
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_does(batch_size, accumulate, nearest):
    with pytest.raises(InputError, match=f"nearest that does is {nearest}"):
        check_batch_size(batch_size, 8, accumulate=accumulate, name="batch_size")


def abstract_params(**options):
    config = models.model_config("ViT-Ti/16", **options)
    return models.abstract(lambda rngs: models.build_model(config, rngs))[1]


def test_a_share_that_stays_replicated_is_refused_by_name():
    params = abstract_params(num_classes=0)
    check_replication(params, create_mesh(parallel(data=1, fsdp=8)), 0.05)
    # 190 features: the largest kernels do not divide by 8.
    odd = abstract_params(num_classes=0, width=190, mlp_dim=700, num_heads=5)
    with pytest.raises(InputError, match=r"largest is blocks/mlp/fc[12]/kernel"):
        check_replication(odd, create_mesh(parallel(data=1, fsdp=8)), 0.05)
    small = abstract_params(num_classes=0, width=24, mlp_dim=96, num_heads=3, depth=1)
    with pytest.raises(InputError, match=r"fewer than 16,384 numbers are not split; set fsdp to 1"):
        check_replication(small, create_mesh(parallel(data=1, fsdp=8)), 0.05)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-Ti/16", r"tensor=2 leaves 3\d% .*attention/.*kernel"),
        ("BiT-R50x1", "nothing to split"),
    ],
)
def test_heads_that_tensor_parallelism_cannot_split_are_refused(name, message):
    """Ti has three heads."""
    config = models.model_config(name, num_classes=10)
    params = models.abstract(lambda rngs: models.build_model(config, rngs))[1]
    with pytest.raises(InputError, match=message):
        check_replication(params, create_mesh(parallel(data=4, tensor=2)), 0.05)
    check_replication(abstract_params(num_heads=4), create_mesh(parallel(data=4, tensor=2)), 0.05)


def test_moments_are_laid_out_like_their_parameters():
    params = abstract_params()
    mesh = create_mesh(parallel(data=1, fsdp=4, tensor=2))
    state = dict(params=params, opt=(dict(mu=params, count=jax.ShapeDtypeStruct((), int)),))
    shardings = state_shardings(state, params, mesh)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a == b, shardings["params"], shardings["opt"][0]["mu"])
    )
    assert shardings["opt"][0]["count"].spec == P()


def test_the_summary_counts_bytes():
    params = abstract_params()
    total = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    lines = describe(params, create_mesh(parallel(data=8, fsdp=1)))
    assert lines == [f"parameters: {total:,} bytes, {total:,} on each device"]
    *sharded, last = describe(params, create_mesh(parallel(data=1, fsdp=8)))
    (fc1,) = [line for line in sharded if line.startswith("blocks/mlp/fc1/kernel")]
    assert "(None, fsdp)" in fc1 and f"{12 * 192 * 768 * 4 // 8:,} bytes" in fc1
    local = int(last.split(", ")[1].split()[0].replace(",", ""))
    assert total / 8 < local < total / 7
