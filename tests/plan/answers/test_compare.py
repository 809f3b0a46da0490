"""The same run on other slices."""

import json

import pytest

from tests.plan.planning import plan
from tests.plan.test_plan import CONFIG
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.parallel import hardware
from vit_jax.parallel.hardware import GIB, Chip
from vit_jax.plan.answers.compare import compare
from vit_jax.plan.answers.questions import Offer, Questions, parse_offers
from vit_jax.plan.answers.text import compared
from vit_jax.plan.compile import compile_step
from vit_jax.plan.dataset import dataset_of


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def test_offers_are_topologies_with_numbers_and_prices():
    assert parse_offers("v5e:8x8, 2*v6e:8x8@2.7,h100:4x8@0") == [
        *(Offer("v5e:8x8"), Offer("v6e:8x8", 2, 2.7), Offer("h100:4x8", 1, 0.0))
    ]


def test_each_offer_is_planned_and_one_that_is_impossible_says_why(config_file, monkeypatch):
    """Devices present stand for topologies: all eight, and two of them."""
    import jax

    monkeypatch.setattr(
        hardware, "CHIPS", (*hardware.CHIPS, Chip("cpu", 1e12, 16 * GIB, 1e11, 1e10))
    )
    seen = []

    def step_of(config, dataset, topology, slices):
        seen.append((topology, slices, config.parallel.replica))
        count = int(topology.partition(":")[2])
        if count > 8:
            raise InputError(f"no topology {topology}")
        return compile_step(config, dataset, jax.devices()[:count])

    config = load_config(str(config_file))
    found = list(
        compare(
            config,
            dataset_of(config),
            parse_offers("cpu:2,2*cpu:8@3,cpu:16"),
            Questions(price=1.0, images_per_core=1e9, host_cores=1),
            mfu=1e-6,  # so low that nothing else limits
            step_of=step_of,
        )
    )
    assert seen == [("cpu:2", 1, 1), ("cpu:8", 2, 2), ("cpu:16", 1, 1)]
    two, eight, none = found
    assert (two["chips"], eight["chips"], none["chips"]) == (2, 8, None)
    assert none["problem"] == "no topology cpu:16"
    assert two["days"] == pytest.approx(4 * eight["days"])
    assert two["cost"] == pytest.approx(1.0 * 2 * 24 * two["days"])
    assert eight["cost"] == pytest.approx(3.0 * 8 * 24 * eight["days"])
    assert two["fits"] and two["mfu_bound"] > 0
    text = compared(found)
    assert text[0].split()[:3] == ["slices", "chips", "fits"]
    assert text[2].startswith("2*cpu:8") and text[3] == "cpu:16: no topology cpu:16"


def test_slices_of_tpus_in_one_table(config_file):
    pytest.importorskip("libtpu")
    args = [f"--config={config_file}", "--compare=v5e:2x2@1,2*v5e:2x2@1,v5e:5x5"]
    status, out = plan(*args, "--json")
    one, two, none = json.loads(out)["compare"]
    assert (status, one["chips"], two["chips"]) == (0, 4, 8)
    assert "no TPU topology" in none["problem"]
    assert one["cost"] == pytest.approx(4 * 24 * one["days"])
