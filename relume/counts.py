"""Numbers of things as a person reads them."""


def counted(number: int, noun: str) -> str:
    """Such as `1 image` or `3 images`, of a noun whose plural ends with s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
