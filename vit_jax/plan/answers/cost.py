"""Money and energy of a run."""


def cost(*, price: float, chips: float, days: float) -> float:
    """The cost of a run at a price per chip-hour, in the unit of the price."""
    return price * chips * 24 * days


def energy(*, watts: float, chips: float, days: float) -> float:
    """Kilowatt-hours of the chips under load; hosts, network and cooling come on top."""
    return watts * chips * 24 * days / 1000
