"""What the config of a model of diffusers says: the shape of one sample, and whether it is told classes."""

from __future__ import annotations

from typing import Any

from outpace.core.errors import OutpaceError

MOST_SIZE = 2**16


def shape_of(model: Any) -> tuple[int, ...]:
    """(channels, height, width) of what a U-Net takes and gives; (channels, length) in one dimension."""
    config = getattr(model, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        raise OutpaceError(
            "the model has no config with in_channels and sample_size; accepted is shape=(...)"
        )
    given = getattr(config, "out_channels", channels)
    if given == 2 * channels:
        raise OutpaceError(
            f"the model gives {given} channels for {channels}: it predicts its variance too, on which sigma"
            " would depend; accepted are models without one"
        )
    num = 1 if type(model).__name__ == "UNet1DModel" else 2
    sizes = tuple(size) if isinstance(size, list | tuple) else (size,) * num
    if len(sizes) != num or not all(type(n) is int and 1 <= n <= MOST_SIZE for n in (channels, *sizes)):
        raise OutpaceError(
            f"the model has in_channels {channels!r} and sample_size {size!r}; accepted are whole numbers"
            f" from 1 to {MOST_SIZE}"
        )
    return (channels, *sizes)


def needs_labels(model: Any) -> bool:
    """Whether a model is told a class for each sample."""
    config = getattr(model, "config", None)
    names = "num_class_embeds", "class_embed_type"
    return any(getattr(config, name, None) is not None for name in names)
