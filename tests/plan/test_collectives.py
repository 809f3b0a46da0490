"""Collectives counted in HLO text and in the compiled step, against sums done by hand."""

import functools

import pytest

from vit_jax import config as configs
from vit_jax.plan import collectives
from vit_jax.plan.collectives import Collective, by_kind, find_collectives
from vit_jax.plan.compile import compile_step
from vit_jax.plan.hlo import Module
from vit_jax.plan.report import minimum
from vit_jax.train.run import Dataset

MODULE = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}}
{computations}
ENTRY %main (a: f32[16,8]) -> f32[16,8] {{
  %a = f32[16,8]{{1,0:T(8,128)S(1)}} parameter(0)
{body}
}}
"""


def parse(*body, computations=""):
    text = MODULE.format(body="\n".join(body), computations=computations)
    return find_collectives(Module(text))


# `a` has 512 bytes.
@pytest.mark.parametrize(
    "line, group, sent",
    [
        ("f32[16,8] all-reduce(%a), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add", 4, 768),
        ("f32[16,8] all-reduce(%a), replica_groups=[2,4]<=[8], to_apply=%add", 4, 768),
        ("f32[16,8] all-reduce(%a), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add", 2, 512),
        ("f32[16,8] all-reduce(%a), replica_groups={}, to_apply=%add", 8, 896),
        ("f32[16,8] all-reduce(%a), replica_groups=mesh['x'=2,'y'=4] {'y'}, to_apply=%add", 4, 768),
        (
            "f32[16,8] all-reduce(%a), replica_groups=mesh['x'=1,'y'=2,'z'=4], "
            "device_ids=([4,2]T(1,0)) {'x','z'}, to_apply=%add",
            4,
            768,
        ),
        ("f32[16,8] all-reduce(%a), replica_groups=mesh['x'=8] {'x':(2)4}, to_apply=%add", 4, 768),
        ("f32[4,8] reduce-scatter(%a), replica_groups=[2,4]<=[8], to_apply=%add", 4, 384),
        ("f32[64,8] all-gather(%a), replica_groups=[2,4]<=[8], dimensions={0}", 4, 1536),
        ("(f32[16,8], f32[64,8]) all-gather-start(%a), replica_groups=[2,4]<=[8]", 4, 1536),
        ("f32[16,8] all-to-all(%a), replica_groups=[2,4]<=[8]", 4, 384),
        ("f32[16,8] collective-permute(%a), source_target_pairs={{0,1},{1,0}}", 8, 512),
    ],
)
def test_what_each_collective_sends(line, group, sent):
    (found,) = parse(f"  ROOT %c = {line}")
    assert (found.group, found.operand_bytes, found.times) == (group, 512, 1)
    assert found.bytes == sent


@pytest.mark.parametrize(
    "groups, members",
    [
        ("{{0,2},{1,3}}", (0, 2)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("{}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
        ("mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        # Devices 0 2 4 6, 1 3 5 7 as x, y, z: two of x, then the four of y and z.
        ("mesh['x'=2,'y'=2,'z'=2], device_ids=([4,2]T(1,0)) {'x'}", (0, 1)),
        ("mesh['x'=2,'y'=2,'z'=2], device_ids=([4,2]T(1,0)) {'y','z'}", (0, 2, 4, 6)),
        ("mesh['x'=8] {'x':(1)2}", (0, 4)),
        ("mesh['x'=8] {'x':(2)4}", (0, 1, 2, 3)),
    ],
)
def test_members_of_a_group(groups, members):
    (found,) = parse(
        f"  ROOT %c = f32[16,8] all-reduce(%a), replica_groups={groups}, to_apply=%add"
    )
    assert found.members == members and found.group == len(members)


def test_tuples_narrow_types_and_the_operation_they_come_from():
    (found,) = parse(
        "  %b = bf16[3,5]{1,0:T(8,128)(2,1)S(1)} convert(%a)",
        "  %p = pred[7]{0} compare(%a, %a), direction=LT",
        "  %r = (f32[16,8]{1,0}, /*index=1*/bf16[3,5]{1,0}, pred[7]{0}) all-reduce(%a, %b, %p), "
        'channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add, metadata={op_name="step/dot"}',
        "  %d = f32[16,8]{1,0} all-reduce-done(%r)",
    )
    assert found.operand_bytes == 512 + 30 + 7
    assert found.source == "step/dot"


LOOP = """
%body (p: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {{
  %p = (s32[], f32[16,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %v = f32[16,8] get-tuple-element(%p), index=1
  %k = s32[]{{:T(128)}} constant({stride})
  %j = s32[] add(%i, %k)
  %r = f32[16,8] all-reduce(%v), replica_groups={{}}, to_apply=%add
  ROOT %out = (s32[], f32[16,8]) tuple(%j, %r)
}}
%cond (p2: (s32[], f32[16,8])) -> pred[] {{
  %p2 = (s32[], f32[16,8]) parameter(0)
  %i2 = s32[] get-tuple-element(%p2), index=0
  {limit}
  ROOT %lt = pred[] compare(%i2, %n), direction=LT
}}
"""
WHILE = "  ROOT %w = (s32[], f32[16,8]) while(%a), condition=%cond, body=%body"


@pytest.mark.parametrize("limit, stride, times", [(12, 1, 12), (8, 2, 4), (7, 2, 4)])
def test_a_loop_counts_as_often_as_it_turns(limit, stride, times):
    loop = LOOP.format(limit=f"%n = s32[] constant({limit})", stride=stride)
    (found,) = parse(WHILE, computations=loop)
    assert found.times == times and found.bytes == times * 896
    (found,) = parse(WHILE + ', backend_config={"known_trip_count":{"n":"5"}}', computations=loop)
    assert found.times == 5


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(ValueError, match="length of the loop w is not in the HLO"):
        parse(WHILE, computations=LOOP.format(limit="%n = s32[] parameter(1)", stride=1))


def test_of_two_branches_the_one_that_sends_more_counts():
    branch = "%{name} (q: f32[16,8]) -> f32[16,8] {{\n  {line}\n}}\n"
    small = "%b1 = f32[2] parameter(0)\n  %c1 = f32[2] collective-permute(%b1)"
    large = "%b2 = f32[99] parameter(0)\n  %c2 = f32[99] collective-permute(%b2)"
    computations = branch.format(name="one", line=small) + branch.format(name="two", line=large)
    (found,) = parse(
        "  %c = f32[16,8] conditional(%a, %a), branch_computations={%one, %two}",
        computations=computations,
    )
    assert found.bytes == 396


def test_how_xla_spells_them_for_tpus():
    """A fused reduce-scatter, and an all-gather cut into pieces that overlap with products."""
    computations = """
%all-reduce-scatter.1 (q: f32[16,8]) -> f32[2,8] {
  %q = f32[16,8] parameter(0)
  %r = f32[16,8] all-reduce(%q), channel_id=1, replica_groups={}, to_apply=%add
  ROOT %s = f32[2,8] dynamic-slice(%r), dynamic_slice_sizes={2,8}
}
%start (q1: f32[2,8]) -> f32[16,8] {
  %q1 = f32[2,8] parameter(0)
  %g1 = f32[16,8] all-gather(%q1), channel_id=2, frontend_attributes={chain_id="0"}
}
%go.on (q2: f32[2,8]) -> f32[16,8] {
  %q2 = f32[2,8] parameter(0)
  %g2 = f32[16,8] all-gather(%q2), channel_id=2, frontend_attributes={chain_id="0"}
}
"""
    found = parse(
        "  %f1 = f32[2,8] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1",
        "  %f2 = f32[16,8] fusion(%f1), kind=kCustom, calls=%start",
        "  %w = f32[16,8] while(%f2), condition=%c, body=%go.on, "
        'backend_config={"known_trip_count":{"n":"12"}}',
        computations=computations,
    )
    assert by_kind(found) == {"all-gather": 64 * 7, "reduce-scatter": 512 * 7 // 8}
    assert [c.overlapped for c in found] == [False, True]


@pytest.mark.parametrize(
    "between, overlapped",
    [
        ("%x = f32[16,8] fusion(%a), kind=kLoop, calls=%f", True),
        ("%x = f32[16,8] dot(%a, %a), lhs_contracting_dims={1}", True),
        ("%x = f32[16,8] bitcast(%a)", False),
        ("%x = f32[16,8] all-gather-done(%other)", False),
    ],
)
def test_overlapped_is_what_starts_before_some_work_and_ends_after_it(between, overlapped):
    (found,) = parse(
        "  %s = (f32[16,8], f32[128,8]) all-gather-start(%a), replica_groups={}",
        f"  {between}",
        "  %d = f32[128,8] all-gather-done(%s)",
        "  %y = f32[128,8] fusion(%d), kind=kLoop, calls=%f",
    )
    assert found.overlapped is overlapped


def test_what_ends_a_computation_late_is_not_overlapped_by_what_follows_its_end():
    wrapped = """
%wrapped (q: f32[16,8]) -> f32[2,8] {
  %q = f32[16,8] parameter(0)
  ROOT %r = f32[2,8] reduce-scatter(%q), replica_groups={}, to_apply=%add
}
"""
    start = "  %s = ((f32[16,8]), f32[2,8]) async-start(%a), calls=%wrapped"
    work = "  %x = f32[16,8] fusion(%a), kind=kLoop, calls=%f"
    done = "  %d = f32[2,8] async-done(%s)"
    (early,) = parse(start, work, done, computations=wrapped)
    (late,) = parse(start, done, work, computations=wrapped)
    assert (early.kind, early.overlapped, late.overlapped) == ("reduce-scatter", True, False)


# As XLA:TPU writes what is sent between slices; `{}` are kind, slices and name.
SEND = (
    "  %{0} = (f32[16,8], u32[], token[]) send(%a, %t), channel_id=2, is_host_transfer=true, "
    'frontend_attributes={{_xla_host_transfer_rendezvous="{1}",_xla_megascale_target={2},'
    '_xla_megascale_transfer_type="{3}"}}'
)
RECV = (
    "  %{0} = (f32[16,8], u32[], token[]) recv(%t), channel_id=1, "
    'frontend_attributes={{_xla_host_transfer_rendezvous="{1}"}}'
)


@pytest.mark.parametrize(
    "target, kind, slices, sent",
    [
        ('"{1,2}x{0:3}"', "ALL_REDUCE", 2, 512),
        ('"{1,2,3,4}x{0:3}"', "ALL_REDUCE", 4, 768),
        ('"{1:4}x{0}"', "REDUCE_SCATTER", 4, 384),
        ('"{1,2,3,4}x{0:3}"', "ALL_GATHER", 4, 1536),
        ("{{100000,200000,300000},{100001,200001,300001}}", "ALL_REDUCE", 3, 683),
        ("{{100000,200000},{100001,200001}}", "ALL_TO_ALL", 2, 256),
        ("{{100000->200000},{200000->100000}}", "ONE_TO_ONE", 1, 512),
    ],
)
def test_what_is_sent_between_slices(target, kind, slices, sent):
    (found,) = parse(SEND.format("s", "x", target, kind))
    assert found.between_slices and collectives.between_slices([found]) == [found]
    assert (found.group, found.operand_bytes, found.bytes) == (slices, 512, sent)


@pytest.mark.parametrize(
    "before, after, overlapped",
    [
        ("%w = f32[16,8] fusion(%a), calls=%f", "%y = f32[1] bitcast(%a)", True),
        ("%y = f32[1] bitcast(%a)", "%w = f32[16,8] fusion(%a), calls=%f", True),
        ("%g = f32[16,8] all-reduce(%a), to_apply=%add", "%y = f32[1] bitcast(%a)", True),
        ("%y = f32[1] bitcast(%a)", "%z = f32[1] bitcast(%a)", False),
    ],
)
def test_a_transfer_lasts_from_send_to_the_end_of_its_own_recv(before, after, overlapped):
    lines = [
        SEND.format("s", "x", '"{1,2}x{0}"', "ALL_REDUCE"),
        f"  {before}",
        "  %sd = token[] send-done(%s)",
        RECV.format("other", "y"),
        RECV.format("r", "x"),
        "  %od = (f32[16,8], token[]) recv-done(%other)",
        f"  {after}",
        "  %rd = (f32[16,8], token[]) recv-done(%r)",
        "  %late = f32[16,8] fusion(%rd), calls=%f",
    ]
    (found,) = collectives.between_slices(parse(*lines))
    assert found.overlapped is overlapped


def test_other_transfers_to_the_host_are_not_between_slices():
    assert parse("  %s = (f32[16,8], token[]) send(%a, %t), is_host_transfer=true") == []


def test_a_transfer_of_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="transfer s between slices is not understood"):
        parse(SEND.format("s", "x", '"{1,2}x{0}"', "GOSSIP"))


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no HLO module"):
        Module("func.func public @main()")


def test_by_kind_adds_up():
    found = [Collective("all-gather", 10, 3, 2, ""), Collective("all-gather", 1, 3, 1, "")]
    assert by_kind(found) == {"all-gather": 42}


# A ViT whose kernels in blocks, and only they, are large enough to be sharded.
BATCH, DEPTH, WIDTH, MLP, TOKENS = 16, 3, 128, 512, 17
QKV, OUT, FC = WIDTH * 3 * WIDTH, WIDTH * WIDTH, WIDTH * MLP
KERNELS = DEPTH * (QKV + OUT + 2 * FC)
OTHERS = (
    DEPTH * (3 * WIDTH + WIDTH + MLP + WIDTH + 4 * WIDTH)  # biases, norms
    + (4 * 4 * 3 * WIDTH + WIDTH)  # patch embedding
    + (WIDTH + TOKENS * WIDTH)  # class token, positions
    + 2 * WIDTH  # the last norm
    + (WIDTH * 10 + 10)  # head
)
# The mean of the loss and the square sums of the gradients' norm: a few floats.
SCALARS = 200


@functools.cache
def compiled(**parallel):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=WIDTH, depth=DEPTH, mlp_dim=MLP, num_heads=4)
    # Without a loop, XLA keeps some of the gathered weights for the backward pass.
    config.model.update(dropout=0.1, stochastic_depth=0.1, unroll=1)
    config.batch_size = BATCH
    config.total.steps = 100
    config.optimizer.clip_norm = 1.0
    config.parallel.update(parallel)
    dataset = Dataset(64, 10, (16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return compile_step(config, dataset)


def test_data_parallelism_reduces_the_gradients_once():
    step = compiled(data=8)
    found = by_kind(step.found)
    expected = 2 * 4 * (KERNELS + OTHERS) * 7 // 8
    assert found.keys() == {"all-reduce"}
    assert expected <= found["all-reduce"] <= expected + SCALARS
    assert minimum(step.run) == {"all-reduce": expected}


def test_pmap_sends_what_data_parallelism_does():
    assert by_kind(compiled(engine="pmap").found) == by_kind(compiled(data=8).found)


def test_fsdp_gathers_twice_and_reduces_once(capfd):
    """XLA:CPU has no reduce-scatter here: it reduces all and keeps a part, twice the bytes."""
    step = compiled(data=1, fsdp=8)
    found = by_kind(step.found)
    gathered, scattered = 2 * 4 * KERNELS * 7 // 8, 4 * KERNELS * 7 // 8
    reduced = 2 * 4 * OTHERS * 7 // 8
    assert minimum(step.run) == {
        "all-gather": gathered,
        "reduce-scatter": scattered,
        "all-reduce": reduced,
    }
    assert found.keys() == {"all-gather", "all-reduce"}
    assert found["all-gather"] == gathered
    assert 0 <= found["all-reduce"] - (2 * scattered + reduced) <= SCALARS
    assert "full rematerialization" not in capfd.readouterr().err


def test_tensor_parallelism_adds_four_reductions_a_block(capfd):
    step = compiled(data=1, fsdp=4, tensor=2)
    found = by_kind(step.found)
    gathered, scattered = 2 * 4 * KERNELS // 2 * 3 // 4, 4 * KERNELS // 2 * 3 // 4
    split = DEPTH * (3 * WIDTH + MLP)  # biases of qkv and fc1
    reduced = 2 * 4 * (OTHERS - split // 2) * 3 // 4
    activations = 4 * DEPTH * (BATCH // 4 * TOKENS * WIDTH * 4)
    assert minimum(step.run) == {
        "all-gather": gathered,
        "reduce-scatter": scattered,
        "all-reduce": reduced + activations,
    }
    assert found.keys() == {"all-gather", "all-reduce"}
    assert found["all-gather"] == gathered
    assert 0 <= found["all-reduce"] - (2 * scattered + reduced + activations) <= SCALARS
    assert "full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("slices", [2, 4])
def test_a_slice_sends_its_sum_of_the_gradients_to_the_others(slices):
    """Of n devices in k slices each sums a k/n-th part, and passes it around k slices."""
    split = KERNELS + DEPTH * (3 * WIDTH + MLP)  # by tensor
    for parallel, shards, values in [
        (dict(data=8), 8, KERNELS + OTHERS),
        (dict(data=1, fsdp=8), 8, KERNELS + OTHERS),
        (dict(data=1, fsdp=4, tensor=2), 4, KERNELS + OTHERS - split / 2),
    ]:
        step = compiled(**parallel)
        params, mesh = step.run.abstract.params, step.run.engine.mesh
        least = collectives.minimum_between_slices(
            params, mesh, slices=slices, batch_shards=shards, dtype="float32"
        )
        part = 4 * values / (shards / slices)
        assert least == round(2 * (slices - 1) / slices * part)


def test_minimum_counts_microbatches_and_narrow_products():
    step = compiled(data=1, fsdp=8)
    params, mesh = step.run.abstract.params, step.run.engine.mesh
    least = collectives.minimum(
        params, mesh, batch_shards=8, dtype="bfloat16", microbatches=3, activation_bytes=0
    )
    assert least["all-gather"] == 3 * 2 * 2 * KERNELS * 7 // 8
    assert least["reduce-scatter"] == 3 * 2 * KERNELS * 7 // 8
    norms_and_head = (4 * DEPTH + 2) * WIDTH + WIDTH * 10 + 10
    assert least["all-reduce"] == 2 * (2 * OTHERS + 2 * norms_and_head) * 7 // 8
    full = collectives.minimum(params, mesh, batch_shards=8, dtype="float32")
    rounded = collectives.minimum(params, mesh, batch_shards=8, dtype="float32", rounds=True)
    assert rounded == full | {"all-gather": full["all-gather"] // 2}
