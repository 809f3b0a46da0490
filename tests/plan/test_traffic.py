"""Bytes to and from main memory in HLO text, against sums done by hand."""

import pytest

from vit_jax.plan.hlo import Module, type_bytes
from vit_jax.plan.traffic import memory_traffic

# Of float32: a, r 512 bytes, w 12 layers of 512.
COMPUTATIONS = """
%sliced (p: f32[12,16,8], i: s32[], x: f32[16,8]) -> f32[16,8] {
  %p = f32[12,16,8] parameter(0)
  %i = s32[] parameter(1)
  %x = f32[16,8] parameter(2)
  %layer = f32[1,16,8] dynamic-slice(%p, %i), dynamic_slice_sizes={1,16,8}
  %flat = f32[16,8] bitcast(%layer)
  ROOT %sum = f32[16,8] add(%flat, %x)
}
%updated (q: f32[16,8], o: f32[12,16,8], j: s32[]) -> f32[12,16,8] {
  %q = f32[16,8] parameter(0)
  %o = f32[12,16,8] parameter(1)
  %j = s32[] parameter(2)
  %part = f32[1,16,8] bitcast(%q)
  ROOT %new = f32[12,16,8] dynamic-update-slice(%o, %part, %j)
}
%nested (n: s32[], m: f32[12,16,8]) -> f32[16,8] {
  %m = f32[12,16,8] parameter(1)
  %n = s32[] parameter(0)
  %inner = f32[16,8] fusion(%m, %n, %q), kind=kLoop, calls=%sliced
  ROOT %neg = f32[16,8] negate(%inner)
}
%twice (s: s32[], z: f32[12,16,8]) -> f32[16,8] {
  %z = f32[12,16,8] parameter(1)
  %s = s32[] parameter(0)
  %some = f32[1,16,8] dynamic-slice(%z, %s), dynamic_slice_sizes={1,16,8}
  ROOT %all = f32[16,8] reduce(%z, %s), dimensions={0}
}
%body (t: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {
  %t = (s32[], f32[16,8]) parameter(0)
  %v = f32[16,8] get-tuple-element(%t), index=1
  %n = f32[16,8] negate(%v)
  ROOT %next = (s32[], f32[16,8]) tuple(%k, %n)
}
"""
MODULE = """HloModule m, is_scheduled=true
{computations}
ENTRY %main (a: f32[16,8], w: f32[12,16,8]) -> f32[16,8] {{
  %a = f32[16,8] parameter(0)
  %w = f32[12,16,8] parameter(1)
  %k = s32[] parameter(2)
  %fast = f32[16,8]{{1,0:T(8,128)S(1)}} parameter(3)
  {line}
}}
"""


@pytest.mark.parametrize(
    "line, moved",
    [
        ("%r = f32[16,8] add(%a, %a)", 3 * 512),
        ("%r = f32[16,8] add(%a, %fast)", 2 * 512),
        ("%r = f32[16,8]{1,0:S(1)} copy(%a)", 512),
        ("%r = (f32[16,8], u32[], token[]) send(%a, %tok), channel_id=2", 512),
        ("%r = (f32[16,8], u32[], token[]) recv(%tok), channel_id=1", 0),
        ("%r = (f32[16,8], token[]) recv-done(%a), channel_id=1", 512),
        ("%r = token[] send-done(%a), channel_id=2", 0),
        ("%r = f32[128] bitcast(%a)", 0),
        ("%r = f32[1,16,8] dynamic-slice(%w, %k), dynamic_slice_sizes={1,16,8}", 2 * 512),
        ("%r = f32[16,8] fusion(%w, %k, %a), kind=kLoop, calls=%sliced", 3 * 512 + 4),
        ("%r = f32[12,16,8] fusion(%a, %w, %k), kind=kLoop, calls=%updated", 2 * 512 + 4),
        ("%r = f32[16,8] fusion(%k, %w), kind=kLoop, calls=%nested", 2 * 512 + 4),
        ("%r = f32[16,8] fusion(%k, %w), kind=kLoop, calls=%twice", 13 * 512 + 4),
        (
            "%r = (s32[], f32[16,8]) while(%a), condition=%c, body=%body, "
            'backend_config={"known_trip_count":{"n":"12"}}',
            12 * 2 * 512,
        ),
    ],
)
def test_what_an_instruction_moves(line, moved):
    text = MODULE.format(computations=COMPUTATIONS, line=line)
    assert memory_traffic(Module(text)) == moved


LOOP = "%r = (s32[], f32[16,8]) while(%a), condition=%goes_on, body=%body"
GOES_ON = """
%goes_on (t2: (s32[], f32[16,8])) -> pred[] {
  %t2 = (s32[], f32[16,8]) parameter(0)
  %v2 = f32[16,8] get-tuple-element(%t2), index=1
  ROOT %more = pred[] custom-call(%v2), custom_call_target="rejected"
}
"""


def test_a_small_loop_of_unknown_length_counts_once():
    """Such as a draw by rejection."""
    text = MODULE.format(computations=COMPUTATIONS + GOES_ON, line=LOOP)
    assert memory_traffic(Module(text)) == 2 * 512
    large = text.replace("16,8]", "1600,800]")
    with pytest.raises(ValueError, match="the length of the loop r is not in the HLO"):
        memory_traffic(Module(large))


def test_a_copy_under_way_reads_at_its_start_and_writes_at_its_end():
    for line in (
        "%s = (f32[16,8]{1,0:S(1)}, f32[16,8], u32[]) copy-start(%a)\n"
        "  %r = f32[16,8]{1,0:S(1)} copy-done(%s)",
        "%s = ((f32[12,16,8]), f32[1,16,8]{2,1,0:S(1)}, s32[]) slice-start(%w), slice={[0:1]}\n"
        "  %r = f32[1,16,8]{2,1,0:S(1)} slice-done(%s)",
    ):
        text = MODULE.format(computations=COMPUTATIONS, line=line)
        assert memory_traffic(Module(text)) == 512


def test_sizes_of_types():
    text = "(f32[8,4]{1,0:T(8,128)S(1)}, /*index=1*/bf16[3], pred[], s4[3])"
    assert type_bytes(text) == 128 + 6 + 1 + 2
    assert type_bytes(text, main_memory=True) == 6 + 1 + 2
