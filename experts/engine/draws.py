"""Where the randomness of a sampled token comes from."""


def draw_seed(seed: int, position: int) -> int:
    """The generator's seed for token number `position`: a resumed answer draws as it would have."""
    return (seed * 1_000_003 + position) % 2**63
