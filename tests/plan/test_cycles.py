"""Operations of compiled steps: products against XLA's count, estimates against sums by hand."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.plan.planning import plan
from tests.plan.test_plan import CONFIG
from vit_jax.parallel.hardware import Chip
from vit_jax.plan import cycles
from vit_jax.plan.hlo import Module
from vit_jax.plan.text import lines

MODULE = """HloModule m, is_scheduled=true
%product (p: bf16[8,16], q: bf16[16,32]) -> f32[8,32] {
  %p = bf16[8,16] parameter(0)
  %q = bf16[16,32] parameter(1)
  %dot = f32[8,32] convolution(%p, %q), dim_labels=bf_io->bf
  ROOT %tanh = f32[8,32] tanh(%dot)
}
%body (t: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %t = (s32[], bf16[8,16]) parameter(0)
  %x = bf16[8,16] get-tuple-element(%t), index=1
  %w = bf16[16,32] constant({...})
  %fc = f32[8,32] fusion(%x, %w), kind=kOutput, calls=%product, metadata={op_name="jit(step)/fc"}, \
backend_config={"window_config":{},"estimated_cycles":"100"}
  %sent = f32[8,32] all-reduce(%fc), replica_groups={}, to_apply=%add, \
backend_config={"estimated_cycles":"7000"}
  ROOT %next = (s32[], bf16[8,16]) tuple(%k, %x)
}
ENTRY %main (a: bf16[8,16]) -> f32[8,32] {
  %a = bf16[8,16] parameter(0)
  %loop = (s32[], bf16[8,16]) while(%a), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
  %moved = bf16[8,16] copy(%a)
  ROOT %r = f32[8,32] negate(%n), backend_config={"estimated_cycles":"50"}
  %n = f32[8,32] constant({...})
}
"""
CHIP = Chip("chip", bf16_flops=2e12, memory_bytes=1, memory_bandwidth=1e12, network_bandwidth=1)
NETWORK = dict(network=3e-9, overlapped=1e-9, between_slices=0.0, between_slices_overlapped=0.0)


def test_operations_count_once_an_iteration_and_collectives_are_left_out():
    found = {each.name: each for each in cycles.find_operations(Module(MODULE))}
    assert found.keys() == {"fc", "moved", "r"}
    fc = found["fc"]
    assert (fc.times, fc.flops) == (12, 12 * 2 * 8 * 16 * 32)
    assert fc.bytes == 12 * (2 * 8 * 16 + 2 * 16 * 32 + 4 * 8 * 32)
    assert (fc.cycles, fc.source) == (1200, "jit(step)/fc")
    assert (found["moved"].cycles, found["moved"].bytes) == (None, 2 * 2 * 8 * 16)


def test_estimates_are_sums_over_operations_and_the_exposed_network():
    found = cycles.find_operations(Module(MODULE))
    chip = Chip(**(vars(CHIP) | dict(clock=1e9)))
    flops = 12 * 2 * 8 * 16 * 32
    result = cycles.predict(found, NETWORK, flops, chip)
    moved = [each.bytes / 1e12 for each in found if each.name != "fc"]
    longest = max(flops / 2e12, 12 * 2304 / 1e12)
    assert result["per_operation"] == pytest.approx(longest + sum(moved) + 2e-9)
    assert result["compiler"] == pytest.approx(1250 / 1e9 + 2e-9)
    assert cycles.predict(found, NETWORK, flops, CHIP)["compiler"] is None
    # More products than the text shows: some are in kernels, whose time nobody gives.
    assert cycles.predict(found, NETWORK, 2 * flops, chip)["per_operation"] is None


COPIES = """HloModule m, is_scheduled=true
%product (p: bf16[8,16], q: bf16[16,32]) -> f32[8,32] {
  %p = bf16[8,16] parameter(0)
  %q = bf16[16,32] parameter(1)
  ROOT %dot = f32[8,32] convolution(%p, %q), dim_labels=bf_io->bf
}
ENTRY %main (a: bf16[8,16], w: bf16[16,32]) -> f32[8,32] {
  %a = bf16[8,16] parameter(0)
  %w = bf16[16,32] parameter(1)
  %early = (bf16[8,16], bf16[8,16], u32[]) copy-start(%a)
  %part = ((bf16[16,32]), bf16[4,32], s32[]) slice-start(%w), slice={[0:4], [0:32]}
  %fc = f32[8,32] fusion(%a, %w), kind=kOutput, calls=%product
  %early.done = bf16[8,16] copy-done(%early)
  %part.done = bf16[4,32] slice-done(%part)
  %late = (bf16[8,16], bf16[8,16], u32[]) copy-start(%a)
  %reserved = f32[8,32] custom-call(), custom_call_target="AllocateBuffer"
  %late.done = bf16[8,16] copy-done(%late)
  ROOT %r = f32[8,32] negate(%fc)
}
"""


def test_copies_during_which_something_is_computed_take_no_time_of_their_own():
    found = cycles.find_operations(Module(COPIES))
    beside = {each.name for each in found if each.beside}
    assert beside == {"early", "early.done", "part", "part.done"}
    flops = 2 * 8 * 16 * 32
    chip = Chip(**(vars(CHIP) | dict(bf16_flops=1e9)))
    result = cycles.predict(found, NETWORK, flops, chip)
    others = 2 * 2 * 8 * 16 / 1e12 + 2 * 4 * 8 * 32 / 1e12  # the late copy; the negation
    moved = 2 * 2 * 8 * 16 / 1e12 + 2 * 2 * 4 * 32 / 1e12  # the early copy and the slice
    assert result["copies_beside"] == pytest.approx(flops / 1e9 + others + 2e-9)
    assert result["per_operation"] == pytest.approx(flops / 1e9 + others + moved + 2e-9)
    # They need the memory's bandwidth all the same.
    fast = Chip(**(vars(CHIP) | dict(bf16_flops=1e13)))
    slow = cycles.predict(found, NETWORK, flops, fast)
    memory = sum(each.bytes for each in found) / 1e12
    assert slow["copies_beside"] == pytest.approx(memory + 2e-9)


def convolve(**options):
    labels = options.pop("labels", ("NHWC", "HWIO", "NHWC"))
    return lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=labels, **options)


@pytest.mark.parametrize(
    "function, left, right",
    [
        (lambda x, w: x @ w, (24, 40), (40, 56)),
        (lambda x, w: jnp.einsum("bqhd,bkhd->bhqk", x, w), (2, 9, 3, 5), (2, 7, 3, 5)),
        (convolve(window_strides=(1, 1), padding="SAME"), (2, 9, 8, 4), (3, 5, 4, 6)),
        (convolve(window_strides=(2, 3), padding="VALID"), (2, 9, 8, 4), (3, 2, 4, 6)),
        (
            convolve(window_strides=(1, 2), padding=((2, 1), (0, 4)), rhs_dilation=(2, 1)),
            (2, 9, 8, 4),
            (3, 2, 4, 6),
        ),
        (
            convolve(window_strides=(1, 1), padding=((2, 1), (1, 1)), lhs_dilation=(2, 3)),
            (2, 9, 8, 4),
            (3, 2, 4, 6),
        ),
        (
            convolve(window_strides=(1, 1), padding="SAME", feature_group_count=2),
            (2, 9, 8, 4),
            (3, 3, 2, 6),
        ),
    ],
)
def test_products_have_the_flops_that_xla_counts(function, left, right):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (left, right)]
    compiled = jax.jit(function).lower(*shapes).compile()
    found = cycles.find_operations(Module(compiled.as_text()))
    assert sum(each.flops for each in found) == compiled.cost_analysis()["flops"]


def test_copies_in_an_asynchronous_call_are_beside_what_is_computed_meanwhile():
    text = COPIES.replace(
        "ENTRY %main",
        """%moves (m: bf16[8,16]) -> bf16[8,16] {
  %m = bf16[8,16] parameter(0)
  ROOT %moved = bf16[8,16] copy(%m)
}
ENTRY %main""",
    ).replace(
        "%early = (bf16[8,16], bf16[8,16], u32[]) copy-start(%a)",
        "%early = ((bf16[8,16]), bf16[8,16], s32[]) async-start(%a), calls=%moves",
    )
    text = text.replace("copy-done(%early)", "async-done(%early)")
    found = {each.name: each for each in cycles.find_operations(Module(text))}
    assert found["moved"].beside and not found["fc"].beside and not found["late"].beside


def test_a_plan_for_tpus_prints_the_estimates(tmp_path):
    pytest.importorskip("libtpu")
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    status, out = plan(f"--config={path}", "--topology=v5e:1x1", "--json")
    found = json.loads(out)
    assert status == 0
    bound, estimates = found["roofline"], found["estimates"]
    assert bound["step"] <= estimates["copies_beside"] <= estimates["per_operation"]
    assert estimates["per_operation"] < estimates["compiler"]
    text = "\n".join(lines(found))
    assert f"one by one     {1000 * estimates['per_operation']:.1f} ms" in text
    assert f"copies beside  {1000 * estimates['copies_beside']:.1f} ms" in text
    assert "XLA's estimate" in text and "ranks variants, predicts no time" in text
