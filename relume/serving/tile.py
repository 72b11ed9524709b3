"""Which halo fits a tile: the one rule, for settings, recipes and the tiler. It imports nothing heavy."""


def fade_of(halo: int) -> int:
    """Pixels over which the kept parts of two neighbouring tiles are faded into each other."""
    return (halo + 1) // 2


def halo_problem(tile: int, halo: int) -> str | None:
    """Why tiles of side `tile` with this halo cannot cover an image; None when they can."""
    if halo >= 0 and tile - 2 * halo - fade_of(halo) >= 1:
        return None
    return (
        f"nothing is left of a tile of {tile} within a halo of {halo} and its fade;"
        f" a halo of 0 to {max(0, (tile - 2) * 2 // 5)} fits"
    )
