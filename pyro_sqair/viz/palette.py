# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The colours of object ids."""

# Ten colours, bright on black, from a search in CIELAB that maximised their smallest distance for normal sight and
# simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009). The first four differ most.
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
    """The colour of an object as `#RRGGBB`; a function of the id alone that repeats after ten ids.

    Raises:
        ValueError: if the id is negative, which marks an absent object.
    """
    if object_id < 0:
        raise ValueError(f"expected the id of a present object, at least 0, got {object_id}")
    return PALETTE[object_id % len(PALETTE)]
