import copy
from types import SimpleNamespace

import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.plan.search import Planner, as_flags, changed, largest


@pytest.mark.parametrize("true", [1, 2, 3, 16, 17, 100, 1000, 4096])
@pytest.mark.parametrize("start", [1, 16, 1000])
def test_largest_is_found_to_a_sixteenth_with_few_questions(true, start):
    asked = []

    def fits(n):
        asked.append(n)
        return n <= true

    found = largest(fits, start)
    assert found <= true < found + max(1, found // 16) + 1
    assert len(asked) == len(set(asked)) <= 18


def test_nothing_fits():
    assert largest(lambda n: False, 8) == 0


def test_without_a_limit_there_is_no_largest_batch():
    planner = FakePlanner(limit=10**9, batch_size=8)
    step = planner.compile()
    step.limit_bytes = None
    step.run.engine.mesh.devices = np.array([SimpleNamespace(device_kind="odd card")])
    with pytest.raises(InputError, match="memory of odd card is not known"):
        planner.fit_batch(step)


def test_flags_are_arguments():
    assert as_flags({"model.remat": "full", "parallel.fsdp": 8}) == [
        "--config.model.remat=full",
        "--config.parallel.fsdp=8",
    ]


class FakeEngine:
    def __init__(self, parallel):
        self.mesh = type("Mesh", (), {"shape": {"data": parallel.data, "fsdp": parallel.fsdp}})
        self.batch_shards = parallel.data * parallel.fsdp


class FakeStep:
    """Stands in for a compiled step: what saves memory divides its bytes."""

    def __init__(self, config, limit):
        saved = {"auto": 1, "none": 1, "names": 2, "full": 4}[config.model.remat]
        if config.parallel.accumulate > 8:
            raise InputError("too many microbatches")
        self.temporary_bytes = config.batch_size * 8 // saved // config.parallel.accumulate
        self.total_bytes = self.temporary_bytes + 100 // config.parallel.fsdp
        self.limit_bytes = limit
        self.fits = self.total_bytes <= limit
        self.run = type("Run", (), {})()
        self.run.model_config = models.model_config("ViT-Ti/16", remat=config.model.remat)
        self.run.engine = FakeEngine(config.parallel)
        self.run.total_steps = 10


class FakePlanner(Planner):
    layouts = ()  # those that the search finds

    def __init__(self, limit, **options):
        config = configs.default()
        config.total.epochs = 3.0
        config.batch_size = 128
        config.update_from_flattened_dict({"parallel.data": 4} | options)
        super().__init__(config, dataset=None)
        self.limit = limit
        self.compiled = []

    def compile(self, **options):
        config = copy.deepcopy(self.config)
        config.update_from_flattened_dict(options)
        self.compiled.append(config)
        return FakeStep(config, self.limit)

    def _layouts(self, step):
        return ({"parallel.engine": "pjit"} | layout for layout in self.layouts)

    def suggestions(self):
        return [(a["flags"], a["fits"]) for a in self.suggest(self.compile())]


REMAT = "--config.model.remat={}".format
ACCUMULATE = "--config.parallel.accumulate={}".format


def fsdp(data, shards):
    return [
        f"--config.parallel.{name}" for name in ("engine=pjit", f"data={data}", f"fsdp={shards}")
    ]


def test_each_remedy_is_tried_up_to_the_first_that_suffices():
    assert FakePlanner(limit=700).suggestions() == [
        ([REMAT("names")], True),
        ([ACCUMULATE(2)], True),
    ]


def test_layouts_of_the_search_are_tried_in_their_order():
    """1024 + 100 / 2 bytes do not fit, 1024 / 4 + 100 / 4 do."""
    planner = FakePlanner(limit=290)
    planner.layouts = (
        {"parallel.data": 2, "parallel.fsdp": 2},
        {"parallel.data": 1, "parallel.fsdp": 4, "model.remat": "full"},
        {"parallel.data": 4, "parallel.fsdp": 1, "model.remat": "full"},
    )
    assert planner.suggestions() == [
        ([REMAT("names")], False),
        ([REMAT("full")], False),
        ([ACCUMULATE(8)], True),
        (fsdp(2, 2), False),
        ([*fsdp(1, 4), REMAT("full")], True),
    ]


def test_microbatches_that_cannot_suffice_are_not_compiled():
    planner = FakePlanner(limit=300)
    assert planner.suggestions()[-1] == ([ACCUMULATE(8)], True)
    assert [c.parallel.accumulate for c in planner.compiled if c.parallel.accumulate > 1] == [8]


def test_what_is_in_use_is_not_suggested():
    options = {"model.remat": "full", "parallel.data": 1, "parallel.fsdp": 4}
    assert FakePlanner(limit=160, **options).suggestions() == [([ACCUMULATE(2)], True)]
    config = FakePlanner(limit=160, **options).config
    assert changed({"model.remat": "full", "parallel.fsdp": 2}, config) == {"parallel.fsdp": 2}


def test_fit_batch_searches_multiples_of_the_shards_at_the_same_length():
    planner = FakePlanner(limit=2000, **{"parallel.accumulate": 2})
    batch = planner.fit_batch(planner.compile())
    assert batch % 8 == 0
    assert 448 <= batch <= 475  # 8 * batch / 2 + 100 <= 2000
    assert all(config.total.epochs is None for config in planner.compiled[1:])
    assert all(config.total.steps == 10 for config in planner.compiled[1:])


def test_a_layout_that_is_refused_is_said(caplog):
    planner = FakePlanner(limit=10)
    planner.layouts = ({"parallel.accumulate": 16},)
    assert all(not fits for _, fits in planner.suggestions())
    assert "accumulate=16 is not possible: too many microbatches" in caplog.text
