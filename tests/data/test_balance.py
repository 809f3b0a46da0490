"""Classes drawn by a power of their frequency: against the closed form of 1910.09217, eq. 1."""

import dataclasses
import itertools

import numpy as np
import pytest

from vit_jax.data import open_configured, open_source, order, parse, train_batches
from vit_jax.data.balance import Balance
from vit_jax.data.options import DataOptions
from vit_jax.errors import InputError

COUNTS = (1, 3, 16, 0, 80, 400)  # of the classes; one is empty
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), COUNTS)).astype(np.int32)


def closed_form(q):
    powers = np.array([count**q if count else 0.0 for count in COUNTS])
    return powers / powers.sum()


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_draws_of_an_epoch_are_the_closed_form_to_a_draw(strength):
    balance = Balance(LABELS, strength)
    for epoch in range(3):
        _, index = balance.examples(epoch * 500 + np.arange(500), seed=7)
        drawn = np.bincount(LABELS[index], minlength=6)
        np.testing.assert_allclose(drawn, 500 * closed_form(1 - strength), atol=1)
        assert drawn.sum() == 500 and (drawn[[0, 1, 2, 4, 5]] > 0).all() and drawn[3] == 0


def test_any_window_of_the_stream_has_nearly_these_shares():
    _, index = Balance(LABELS, 1.0).examples(np.arange(12_345, 12_345 + 5_000), seed=1)
    drawn = np.bincount(LABELS[index], minlength=6) / 5_000
    np.testing.assert_allclose(drawn, closed_form(0.0), atol=0.01)


def test_strength_0_draws_every_example_once():
    _, index = Balance(LABELS, 0.0).examples(np.arange(500), seed=3)
    np.testing.assert_array_equal(np.sort(index), np.arange(500))


def test_examples_of_a_class_come_once_each_before_any_comes_again():
    epoch, index = Balance(LABELS, 1.0).examples(np.arange(5_000), seed=3)
    for label in (0, 1, 2, 4, 5):
        rows = LABELS[index] == label
        pairs = np.stack([epoch[rows], index[rows]])
        assert len(np.unique(pairs, axis=1).T) == rows.sum()  # else two crops would be the same
        whole = epoch[rows] < epoch[rows].max()
        for own in np.unique(epoch[rows][whole]):
            members = index[rows][epoch[rows] == own]
            np.testing.assert_array_equal(np.sort(members), np.flatnonzero(label == LABELS))
    # The order within a class changes from one of its epochs to the next.
    firsts = [index[(epoch == own) & (LABELS[index] == 2)] for own in range(4)]
    assert len({tuple(first) for first in firsts}) == 4


def test_permutations_within_groups_are_bijections():
    sizes = np.array([1, 2, 3, 7, 100, 1000])
    group = np.repeat(np.arange(6), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    for epoch in (0, 5):
        found = order.permutation_within(
            place, np.full_like(group, epoch), group, seed=2, size=sizes[group]
        )
        for number, size in enumerate(sizes):
            np.testing.assert_array_equal(np.sort(found[group == number]), np.arange(size))


def take(source, steps, **options):
    batches = train_batches(
        source, parse("random_crop(8, padding=2)"), **{**dict(batch_size=24, seed=5), **options}
    )
    found = list(itertools.islice(batches, steps))
    batches.close()
    return {name: np.stack([batch[name] for batch in found]) for name in found[0]}


def test_the_pipeline_goes_on_exactly_and_does_not_depend_on_processes():
    source = open_source("digits", "train[:10%]")
    labels = source.targets.copy()
    source = dataclasses.replace(source, balance=Balance(labels, 0.5))
    whole = take(source, 12)
    late = take(source, 5, start_step=7)
    for name in whole:
        np.testing.assert_array_equal(whole[name][7:], late[name])
        halves = [take(source, 12, rows=np.arange(i * 12, i * 12 + 12))[name] for i in range(2)]
        np.testing.assert_array_equal(np.concatenate(halves, 1), whole[name])
    np.testing.assert_array_equal(whole["label"].ravel(), labels[whole["index"].ravel()])


def imbalanced(folder):
    for path in sorted((folder / "cat").glob("*.jpg"))[2:]:
        path.unlink()
    return f"folder:{folder}"


def test_the_option_balances_training_alone(folder):
    spec = imbalanced(folder)
    options = DataOptions(source=spec, balance=1.0)
    source = open_configured(options)
    _, index = source.order(np.arange(1200), seed=0, shuffle=True)
    assert np.bincount(source.targets[index]).tolist() == [600, 600]
    assert open_configured(options, split="train").balance is None
    assert open_configured(DataOptions(source=spec)).balance is None


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(balance=1.5), "balance is 1.5; it must be from 0 to 1"),
        (dict(balance=0.5, shuffle=False), "does not go with data.shuffle=False"),
        (dict(balance=0.5, resident=True), "does not go with data.resident=True"),
        (dict(balance=0.5, multi_label=True), "does not go with data.multi_label=True"),
        (dict(balance=0.5, source="mix:digits*1"), "does not go with mix:"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        open_configured(DataOptions(**{**dict(source="digits"), **options}))
