"""The recipes of a table, by scale."""

from vit_jax.errors import InputError, unknown
from vit_jax.paper import paper_scale, small_scale
from vit_jax.paper.runs import Recipe
from vit_jax.paper.tables import Key, table

SCALES = {"paper": paper_scale.TABLES, "small": small_scale.TABLES}


def recipes(number: int, scale: str = "paper") -> dict[Key, Recipe]:
    """The recipes of a table's cells; cells without one are computed, derived or out of reach.

    Args:
      number: number of the table.
      scale: "paper": the paper's models and data; "small": the same comparison with
        small models and data sets at hand, see `small_scale`.

    Raises:
      InputError: an unknown scale, or a table without a small version.
    """
    if scale not in SCALES:
        raise unknown("--scale", scale, SCALES)
    makers = SCALES[scale]
    if number in makers:
        return dict(makers[number](table(number)))
    if scale == "small":
        known = ", ".join(map(str, sorted(makers)))
        raise InputError(f"table {number} has no small version; tables {known} have one")
    return {}
