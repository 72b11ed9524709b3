"""Which tiles go: the one set of rules, for settings, recipes and the tiler. It imports nothing heavy."""


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


def tiles_problem(measured: tuple[int, int], served: tuple[int, int]) -> str | None:
    """Why what is measured is not what will serve; None when tile and halo are the same."""
    if measured == served:
        return None
    return (
        f"evaluate has tile {measured[0]} and halo {measured[1]}, export has tile {served[0]} and halo {served[1]};"
        " make them equal, so that what is measured is what serves"
    )
