# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""One colour for each object id."""

# Found by a search in CIELAB for ten colours that are bright on black and as far apart as can be, for normal
# sight and under simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009). The first four are
# the furthest apart.
PALETTE: tuple[str, ...] = (
    "#00FFFF",
    "#D12E8B",
    "#D1FF00",
    "#8B46FF",
    "#E80046",
    "#B9A200",
    "#A2FF8B",
    "#FF8BA2",
    "#2EB9E8",
    "#4674D1",
)


def color_of(object_id: int) -> str:
    """The colour of an object, as `#RRGGBB`: the same whenever the id is; the eleventh is the first again.

    Raises:
        ValueError: for a negative id, which means that there is no object.
    """
    if object_id < 0:
        raise ValueError(f"expected the id of a present object, at least 0, got {object_id}")
    return PALETTE[object_id % len(PALETTE)]
