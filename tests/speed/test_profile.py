"""Where a step's time goes: names of instructions to parts, and a real trace."""

from collections import Counter

import pytest

from vit_jax.speed.benchmark import run_config
from vit_jax.speed.profile import PARTS, by_part, part_of, profile

MODULE = """
HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %dot.1 = f32[2,2]{1,0} dot(%a, %b), metadata={op_name="jit(step)/jvp()/while/body/mlp/dot"}
  %both = (f32[2]{0}, f32[2]{0}) fusion(%dot.1), kind=kLoop, calls=%f, \
metadata={op_name="jit(step)/transpose(jvp())/while/body/attention/norm/mul" stack_frame_id=1}
  ROOT %t = (s32[], f32[2]{0}) tuple(%i, %x)
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %while.2 = (s32[], f32[2]{0}) while(%t0), condition=%c, body=%body, \
metadata={op_name="jit(step)/jvp()/while"}
  %copy.3 = f32[2]{0} copy(%p)
  ROOT %add = f32[2]{0} add(%copy.3, %p), metadata={op_name="jit(step)/optimizer/add"}
}
"""


@pytest.mark.parametrize(
    ("op_name", "expected"),
    [
        ("jit(step)/jvp()/while/body/closed_call/mlp/dot_general", ("mlp", False)),
        ("jit(step)/transpose(jvp(norm))/jvp(norm)/checkpoint/mul", ("norm", True)),
        ("jit(step)/jvp(head)/mlp/dot_general", ("head", False)),
        ("jit(step)/jvp(embedding)/transpose", ("embedding", False)),
        ("jit(step)/jvp()/add", ("other", False)),
        ("", ("other", False)),
    ],
)
def test_part_of_an_operation(op_name, expected):
    assert part_of(op_name) == expected


def test_loops_do_not_count_what_is_in_them_twice():
    seconds = Counter({"dot.1": 2.0, "both": 3.0, "while.2": 6.0, "copy.3": 0.5, "add": 1.0})
    assert by_part(MODULE, seconds) == {
        ("mlp", False): 2.0,
        ("attention", True): 3.0,
        ("other", False): 0.5,
        ("optimizer", False): 1.0,
    }


def test_every_part_of_a_training_step_shows_in_its_trace(tmp_path):
    config = run_config("ViT-Ti/16", batch_size=8, image_size=32)
    config.model.update(width=32, depth=2, mlp_dim=64, num_heads=2)
    found = profile(config, "train", str(tmp_path))
    parts = {part["part"]: part for part in found["parts"]}
    assert set(PARTS) - {"stem"} <= set(parts)
    for name in ("embedding", "attention", "mlp", "norm", "head"):
        assert parts[name]["forward_ms"] > 0 and parts[name]["backward_ms"] > 0, name
    assert parts["optimizer"]["forward_ms"] > 0 and parts["optimizer"]["backward_ms"] == 0
    assert list(tmp_path.glob("**/*.xplane.pb"))
