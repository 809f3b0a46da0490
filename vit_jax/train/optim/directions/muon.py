"""Muon: momentum of matrices, orthogonalised; AdamW for everything else."""

import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
import optax

from vit_jax.errors import InputError
from vit_jax.options import option
from vit_jax.train.optim.directions.elementwise import MOMENT_DTYPES, scale_by_adam
from vit_jax.train.optim.matrices import map_layers, map_paths, matrix_axes
from vit_jax.train.optim.options import OPTIMIZERS, Direction, OptimizerKind, OptimizerOptions

# Hidden matrices. Embeddings, the head, vectors and tables are AdamW's.
MATRICES = re.compile(
    r"(blocks|map_head)/(?!position_bias/).*kernel|(projection|pre_logits)/kernel"
)


@OPTIMIZERS.register("muon")
@dataclasses.dataclass(frozen=True)
class Muon(OptimizerKind):
    """Muon, as optax.contrib.muon, for the kernels of blocks, pooling and pre_logits.

    Layers, and query, key and value, are matrices of their own; the heads of an attention are one
    matrix. AdamW trains the other parameters with the same learning rate, times `adam_rate`.
    """

    ns_steps: int = option(5, "steps of the Newton-Schulz iteration", at_least=1)
    beta: float = option(0.95, "momentum of matrices", at_least=0, below=1)
    nesterov: bool = option(True, "use Nesterov momentum")
    consistent_rms: float = option(
        0.2,
        "root mean square of an update: 0.2 is that of AdamW, whose learning rate and decay then "
        "suit (2502.16982); 0: the first version's factor sqrt(max(1, outputs / inputs))",
        at_least=0,
    )
    preconditioning: str = option(
        "frobenius",
        "scale before the iteration: frobenius, spectral, aol or schatten",
        choices=("frobenius", "spectral", "aol", "schatten"),
    )
    adam_rate: float = option(1.0, "learning rate of AdamW, as a share of Muon's", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        matrices = map_paths(lambda path: MATRICES.fullmatch(path) is not None, kernels)
        if not any(jax.tree.leaves(matrices)):
            raise InputError(
                "config.optimizer.name 'muon' needs kernels of transformer blocks, and this model "
                "has none; choose another optimizer, such as adamw"
            )
        others = jax.tree.map(lambda is_matrix: not is_matrix, matrices)
        muon = _without_coefficients(
            optax.contrib.scale_by_muon(
                ns_steps=self.ns_steps,
                beta=self.beta,
                mu_dtype=MOMENT_DTYPES[config.moment_dtype],
                nesterov=self.nesterov,
                preconditioning=self.preconditioning,
                weight_dimension_numbers=_dimension_numbers,
            )
        )
        adam = optax.chain(scale_by_adam(config), optax.scale(self.adam_rate))
        scale = optax.stateless(lambda updates, _: map_layers(self._scale, updates))
        return optax.chain(
            optax.masked(optax.chain(muon, scale), matrices), optax.masked(adam, others)
        )

    def _scale(self, path: str, update: jax.Array) -> jax.Array:
        axes = matrix_axes(path, update.ndim)
        inputs, outputs = (
            math.prod(update.shape[axis] for axis in group) for group in (axes.inputs, axes.outputs)
        )
        if self.consistent_rms:
            return self.consistent_rms * math.sqrt(max(inputs, outputs)) * update
        return math.sqrt(max(1, outputs / inputs)) * update


class MuonState(NamedTuple):
    """State of Muon: the number of updates and the momentum of matrices."""

    step_count: jax.Array
    mu: Any


def _without_coefficients(muon: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax's Muon with a state of moments alone; it would store its coefficients too."""
    coefficients = muon.init({}).ns_coeffs

    def init(params: Any) -> MuonState:
        state = muon.init(params)
        return MuonState(state.count, state.mu)

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        whole = optax.contrib.MuonState(state.step_count, state.mu, coefficients)
        updates, new = muon.update(updates, whole, params)
        return updates, MuonState(new.count, new.mu)

    return optax.GradientTransformation(init, update)


def _dimension_numbers(updates: Any) -> Any:
    def numbers(path: str, update: jax.Array) -> optax.contrib.MuonDimensionNumbers:
        axes = matrix_axes(path, update.ndim)
        return optax.contrib.MuonDimensionNumbers(axes.inputs, axes.outputs)

    return map_layers(numbers, updates)
