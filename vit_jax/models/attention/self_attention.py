"""Multi-head attention (section 3.1, appendix A)."""

import abc
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from vit_jax.models.attention.fused.choice import fused_attention
from vit_jax.models.forms.linear import linear
from vit_jax.models.forms.remat import saved
from vit_jax.models.layers import NORMS, Dense, dropout
from vit_jax.models.positions.rotary import Rotation
from vit_jax.registry import Registry

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

QKV_BIASES = ("all", "no_key", "none")

# Queries (B, N, H, d) -> bias on the attention logits in float32, broadcastable to (B, H, N, N),
# or None.
Bias = Callable[[jax.Array], jax.Array | None]


def attention_weights(
    query: jax.Array, key: jax.Array, bias: jax.Array | None = None, causal: bool = False
) -> jax.Array:
    """softmax(q k^T / sqrt(d) + bias) in float32; (B, H, Q, d), (B, H, K, d) -> (B, H, Q, K).

    With `causal`, a query at place i sees the keys at places up to i; the others have weight 0.
    """
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias
    if causal:
        rows, columns = (lax.broadcasted_iota(jnp.int32, scores.shape[2:], i) for i in (0, 1))
        scores = jnp.where(columns <= rows, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, causal: bool = False
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v; (B, H, Q, d), (B, H, K, d), (B, H, K, d) -> (B, H, Q, d).

    The gradient is written out. The forward pass then keeps one array of Q x K, in the dtype
    of the values; automatic differentiation would also keep the softmax in float32. The
    products of the backward pass are in the same dtype instead of float32.
    """
    return _attention_forward(query, key, value, causal)[0]


def _attention_forward(query, key, value, causal):
    weights = attention_weights(query, key, causal=causal).astype(value.dtype)
    y = saved(jnp.einsum("bhqk,bhkd->bhqd", weights, value), "attended")
    return y, (query, key, value, weights, y)


@attention.defjvp
def _attention_derivative(causal, primals, tangents):
    # Causal or not makes no difference to the derivative: a key that is hidden has weight 0.
    y, kept = _attention_forward(*primals, causal)
    (tangent,) = linear(_attention_tangent, _attention_gradient, kept, tangents)
    return y, tangent


def _attention_tangent(kept, tangents):
    query, key, value, weights, y = kept
    query_tangent, key_tangent, value_tangent = tangents
    scores = jnp.einsum("bhqd,bhkd->bhqk", query_tangent, key)
    scores = scores + jnp.einsum("bhqd,bhkd->bhqk", query, key_tangent)
    scores = weights * (scores * query.shape[-1] ** -0.5)
    tangent = jnp.einsum("bhqk,bhkd->bhqd", scores, value) - scores.sum(-1, keepdims=True) * y
    return [tangent + jnp.einsum("bhqk,bhkd->bhqd", weights, value_tangent)]


def _attention_gradient(kept, grads):
    query, key, value, weights, y = kept
    (grad,) = grads
    # For each query, the sum over keys of weight times its gradient, computed as a sum over d
    # (2205.14135).
    total = (grad.astype(jnp.float32) * y.astype(jnp.float32)).sum(-1, keepdims=True)
    scores = jnp.einsum("bhqd,bhkd->bhqk", grad, value, preferred_element_type=jnp.float32)
    scores = (weights * (scores - total)).astype(weights.dtype)
    scale = query.shape[-1] ** -0.5
    return [
        jnp.einsum("bhqk,bhkd->bhqd", scores, key) * scale,
        jnp.einsum("bhqk,bhqd->bhkd", scores, query) * scale,
        jnp.einsum("bhqk,bhqd->bhkd", weights, grad),
    ]


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    bias: jax.Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
    rate: float = 0.0,
    keys: jax.Array | None = None,
    return_weights: bool = False,
    tokens: int | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Scaled dot-product attention.

    Args:
      query, key, value: (B, N, H, d).
      bias: added to the logits, broadcastable to (B, H, N, N).
      causal: whether a query only sees the keys up to its own place.
      implementation: one of `fused.IMPLEMENTATIONS`; see `fused.choose`. Dropout and returned
        weights need the plain products, which then are taken.
      rate: dropout rate of attention weights.
      keys: (B,) dropout keys, None in evaluation.
      return_weights: also return the weights, (B, H, N, N) in float32.
      tokens: number of tokens before the padding of a mesh axis `sequence`; None: no axis cuts
        these tokens.

    Returns:
      (B, N, H, d) and the weights or None.

    Raises:
      InputError: the device lacks the implementation.
    """
    plain = not return_weights and (rate == 0.0 or keys is None)
    if plain:
        found = fused_attention(
            query,
            key,
            value,
            bias=bias,
            causal=causal,
            implementation=implementation,
            tokens=tokens,
        )
        if found is not None:
            return found, None
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    if plain and bias is None:
        return attention(query, key, value, causal).transpose(0, 2, 1, 3), None
    weights = attention_weights(query, key, bias, causal)
    dropped = dropout(weights, rate, keys, store=False).astype(value.dtype)
    y = jnp.einsum("bhqk,bhkd->bhqd", dropped, value).transpose(0, 2, 1, 3)
    return saved(y, "attended"), weights if return_weights else None


class QueryValueBias(nnx.Module):
    """Biases of queries and values alone; a key's bias does not change the softmax."""

    def __init__(self, num_heads: int, head_width: int):
        self.bias = nnx.Param(jnp.zeros((2, num_heads, head_width), jnp.float32))

    def __call__(self, query: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Queries and values (B, N, H, d) with their biases."""
        biases = self.bias[...].astype(query.dtype)
        return query + biases[0], value + biases[1]


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection of queries, keys and values.

    Args:
      width: width of a token (D).
      num_heads: number of heads (H).
      rngs: random streams of the initialisation.
      dtype: dtype of the products.
      qkv_bias: which of queries, keys and values have biases: all, no_key or none.
      out_bias: whether the output projection has a bias.
      qk_norm: apply a norm to each head's queries and keys.
      inner_norm: apply a norm to the heads' output before its projection (sub-LN, 2210.06423).
      norm: name of these norms.
      norm_eps: epsilon of these norms.
      dropout: rate of dropout of attention weights.
      implementation: see `attend`.
      causal: whether a token only sees those before it, and itself.
      tokens: see `attend`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        qkv_bias: str = "all",
        out_bias: bool = True,
        qk_norm: bool = False,
        inner_norm: bool = False,
        norm: str = "layer",
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        implementation: str = "auto",
        causal: bool = False,
        tokens: int | None = None,
    ):
        head_width = width // num_heads
        self.qkv = Dense(
            (width,),
            (3, num_heads, head_width),
            groups=1,
            rngs=rngs,
            dtype=dtype,
            bias=qkv_bias == "all",
        )
        if qkv_bias == "no_key":
            self.query_value = QueryValueBias(num_heads, head_width)
        self.out = Dense((num_heads, head_width), (width,), rngs=rngs, dtype=dtype, bias=out_bias)
        if qk_norm:
            self.query_norm = NORMS[norm](head_width, eps=norm_eps, dtype=dtype)
            self.key_norm = NORMS[norm](head_width, eps=norm_eps, dtype=dtype)
        if inner_norm:
            self.norm = NORMS[norm](width, eps=norm_eps, dtype=dtype)
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.inner_norm = inner_norm
        self.dropout = dropout
        self.implementation = implementation
        self.causal = causal
        self.tokens = tokens

    def __call__(
        self,
        x: jax.Array,
        *,
        bias: Bias | None = None,
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
        layer: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """(B, N, D) -> (B, N, D) and, if asked for, the weights (B, H, N, N).

        `layer` is the number of the block, given if the attention kind is `by_layer`.
        """
        with jax.named_scope("attention"):
            query, key, value = self._project(x)
            if rotation is not None:
                query, key = rotation(query), rotation(key)
            y, weights = self.mix(
                query,
                key,
                value,
                bias=bias,
                keys=keys,
                return_weights=return_weights,
                layer=layer,
            )
            return self._output(y), weights

    def step(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, place: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attention of one token with those before it, whose keys and values are kept.

        Args:
          x: (B, 1, D), the token at `place`.
          keys, values: (B, N, H, d); from `place` on, they are not looked at.
          place: number of the token, from 0.

        Returns:
          (B, 1, D), and the keys and values with those of this token.
        """
        query, key, value = self._project(x)
        keys = lax.dynamic_update_slice_in_dim(keys, key.astype(keys.dtype), place, 1)
        values = lax.dynamic_update_slice_in_dim(values, value.astype(values.dtype), place, 1)
        seen = jnp.arange(keys.shape[1]) <= place
        bias = jnp.where(seen, 0.0, -jnp.inf)[None, None, None]
        return self._output(attend(query, keys, values, bias=bias)[0]), keys, values

    def _project(self, x: jax.Array) -> list[jax.Array]:
        """Queries, keys and values, (B, N, H, d) each."""
        query, key, value = self.qkv.parts(x)
        if self.qkv_bias == "no_key":
            query, value = self.query_value(query, value)
        query, key, value = saved(query, "query"), saved(key, "key"), saved(value, "value")
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        return [query, key, value]

    def _output(self, y: jax.Array) -> jax.Array:
        """(B, N, H, d) of the heads -> (B, N, D)."""
        if self.inner_norm:
            y = self.norm(y.reshape(*y.shape[:2], -1)).reshape(y.shape)
        return self.out(y)

    def mix(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        *,
        bias: Bias | None,
        keys: jax.Array | None,
        return_weights: bool,
        layer: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """What each head takes from the values, which a subclass may restrict to some of them.

        Args:
          query, key, value: (B, N, H, d).
          bias: bias on the attention logits.
          keys: (B,) dropout keys, None in evaluation.
          return_weights: also return the weights.
          layer: number of the block, given if the attention kind is `by_layer`.

        Returns:
          (B, N, H, d), and the weights (B, H, N, N) or None.
        """
        return attend(
            query,
            key,
            value,
            bias=bias and bias(query),
            causal=self.causal,
            implementation=self.implementation,
            rate=self.dropout,
            keys=keys,
            return_weights=return_weights,
            tokens=self.tokens,
        )


class AttentionKind(abc.ABC):
    """A kind of attention (which tokens attend to which): the value of `model.attention_kind`.

    A kind is a frozen dataclass, registered under its name in `ATTENTION_KINDS`; its fields
    are the arguments in parentheses, as in "window(7)".
    """

    # Number of attention layers in one block, each with its MLP.
    branches = 1
    # Whether no token sees a later one.
    causal = False
    # Whether the model's width is divided among the heads.
    splits_width = True

    @property
    def by_layer(self) -> bool:
        """Whether attention differs by layer: it is then called with the option `layer`."""
        return False

    def check(self, config: "ViTConfig") -> None:  # noqa: B027  most kinds suit all options
        """Raises InputError where other options of the model do not suit this kind."""

    @abc.abstractmethod
    def create_block(self, config: "ViTConfig", rngs: nnx.Rngs) -> nnx.Module:
        """Creates a block of the encoder, commonly by `vit_jax.models.block.create_block`.

        It is called like a `vit_jax.models.block.Block`.
        """

    @abc.abstractmethod
    def macs(self, config: "ViTConfig") -> int:
        """Multiply-accumulates of queries with keys and of weights with values in one block.

        They are counted for one image's forward pass, without projections.
        """

    def all_macs(self, config: "ViTConfig") -> int:
        """`macs` of all blocks."""
        return config.depth * self.macs(config)

    def projection_macs(self, config: "ViTConfig") -> int:
        """Multiply-accumulates of one attention layer's linear layers: 4 N D^2 by default."""
        return 4 * config.num_tokens * config.width**2


ATTENTION_KINDS: Registry[Callable[..., AttentionKind]] = Registry(
    "attention kind",
    "vit_jax.models.block",
    *(f"{__package__}.{name}" for name in ("axial", "local", "raster", "sparse", "wide_heads")),
)


def attention_options(config: "ViTConfig") -> dict:
    """The arguments of `SelfAttention` that a model's configuration gives."""
    return dict(
        dtype=jnp.dtype(config.dtype),
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        qk_norm=config.qk_norm,
        inner_norm=config.attention_norm,
        norm=config.norm,
        norm_eps=config.norm_eps,
        dropout=config.attention_dropout,
        implementation=config.attention,
        tokens=config.num_tokens,
    )
