"""Sampling that shows rare classes more often than they occur.

With balance b, class c of n_c of the n examples gets the share

    p_c = n_c^(1 - b) / sum_j n_j^(1 - b)

of the draws: b = 0 are the frequencies of the data, b = 1 the same share for every class, b = 1/2
square roots. This is equation 1 of Kang et al. (2020, 1910.09217) with q = 1 - b; the square
root is that of Mahajan et al. (2018, 1805.00932, section 2.2).

An epoch is n draws. Class c gets n * p_c of them, rounded so that the sum is n, in an order that
is a pure function of (seed, epoch). Its draws go through its examples in epochs of their own:
each example comes once before any of its class comes again.
"""

import dataclasses
import functools

import numpy as np

from vit_jax.data import order


@dataclasses.dataclass(frozen=True, eq=False)
class Balance:
    """The draws of a data set with one class per example.

    Attributes:
      labels: class of each example, int (n,).
      strength: exponent b, from 0 to 1.
    """

    labels: np.ndarray
    strength: float

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Number of examples of each class, int64 (classes,)."""
        return np.bincount(self.labels)

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """Share p_c of each class: float64 (classes,)."""
        powers = np.zeros(len(self.counts))
        there = self.counts > 0
        powers[there] = self.counts[there] ** (1.0 - self.strength)
        return powers / powers.sum()

    @functools.cached_property
    def _edges(self) -> np.ndarray:
        """Slots of an epoch at which the draws of each class begin, and their number.

        A class has at least as many draws as the least has examples, so that none is left out.
        """
        edges = np.concatenate([[0.0], np.cumsum(self.shares)]) * len(self.labels)
        edges[-1] = len(self.labels)
        return np.floor(edges + 0.5).astype(np.int64)

    @functools.cached_property
    def _members(self) -> np.ndarray:
        """Examples sorted by class: int64 (n,)."""
        return np.argsort(self.labels, kind="stable")

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The place of each class's first example in `_members`."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @property
    def draws(self) -> np.ndarray:
        """Number of draws of each class in an epoch, int64 (classes,)."""
        return np.diff(self._edges)

    def examples(self, positions: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The (epoch, index) at positions of the endless stream: two int64 arrays.

        The epoch is that of the example's class, so that an example that comes twice in n draws
        is augmented in two ways.
        """
        n = len(self.labels)
        epoch, offset = np.divmod(np.asarray(positions, np.int64), n)
        slot = order.permutation(offset, epoch, seed=seed, size=n)
        which = np.searchsorted(self._edges, slot, side="right") - 1
        turn = epoch * self.draws[which] + slot - self._edges[which]
        size = self.counts[which]
        own, place = np.divmod(turn, size)
        member = order.permutation_within(place, own, which, seed=seed, size=size)
        return own, self._members[self._starts[which] + member]
