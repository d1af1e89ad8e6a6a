"""A transformer that writes a picture pixel by pixel, from a small version of it.

After the super-resolution task of Stern, Shazeer & Uszkoreit 2018 (arXiv:1811.03115, section 7.2) and the
Image Transformer with 1-D local attention (Parmar et al. 2018, arXiv:1802.05751). A picture is a line of
intensities 0 to 255 in raster order, channels innermost, behind the token START. Position t reads token t
and what the small picture says of intensity t, and predicts intensity t. It sees the last `window` positions.

    attention   the caller's: `blocked` for whole lines in training, the target's cache in decoding
    positions   rotary, half of a head for the row, half for the column: "the pixel above" is one direction
    intensities sinusoids of their value are where embeddings and output matrix begin: neighbours are alike
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.json_files import json_file
from outpace.files.raw import RawTensor
from outpace.files.safetensors import FolderWeights

NUM_LEVELS = 256
START = NUM_LEVELS
"""The token before the first intensity. It is in the vocabulary, and never predicted."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) -> what the queries see; all [B, heads, T, dim]."""


@dataclass(frozen=True, slots=True)
class PixelConfig:
    """The pictures that a model writes, and its size.

    height, width, channels  of a picture. factor: how many times smaller the given one is on each side.
    window                   how many positions one sees, its own included.
    """

    height: int = 32
    width: int = 32
    channels: int = 1
    factor: int = 4
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    feedforward_size: int = 512
    window: int = 128

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise OutpaceError(f"{name} is {value!r}, accepted are whole numbers >= 1")
        if self.height % self.factor or self.width % self.factor:
            raise OutpaceError(f"factor is {self.factor}, accepted are divisors of height and width")
        if self.hidden_size % (4 * self.num_heads):
            raise OutpaceError(f"hidden_size is {self.hidden_size}, accepted are multiples of 4 * num_heads")

    @property
    def num_intensities(self) -> int:
        """N: how many tokens a picture has."""
        return self.height * self.width * self.channels

    @property
    def small_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the picture that is given."""
        return self.height // self.factor, self.width // self.factor, self.channels


class PixelModel(nn.Module):
    """The model; logits [B, T, V] of whole lines by `forward`, of anything else by `states` and `output`."""

    turns: Tensor

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.embedding = nn.Embedding(NUM_LEVELS + 1, width)
        self.reader = _SmallReader(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, NUM_LEVELS + 1)
        self.register_buffer("turns", _turns(config), persistent=False)
        with torch.no_grad():
            # The enlarged picture's intensity begins as the prediction; the last token is another direction.
            sinusoids = _sinusoids(width)
            self.reader.embedding.weight.copy_(sinusoids)
            self.embedding.weight[:NUM_LEVELS] = sinusoids @ nn.init.orthogonal_(torch.empty(width, width))
            self.output.weight[:NUM_LEVELS] = sinusoids / math.sqrt(width)
            self.output.bias.zero_()
            self.output.bias[START] = -30.0

    def forward(self, tokens: Tensor, small: Tensor) -> Tensor:
        """f32[B, T, V]: logits after every token of lines i64[B, T], from small pictures u8[B, h, w, C]."""
        return self.output(self.line_states(tokens, small))

    def line_states(self, tokens: Tensor, small: Tensor) -> Tensor:
        """f32[B, T, D]: what the output matrix reads, of lines that begin with START."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        places = self.places(small)[:, : tokens.shape[1]]
        return self.states(tokens, places, positions, blocked(self.config.window))

    def places(self, small: Tensor) -> Tensor:
        """f32[B, N, D]: what small pictures u8[B, h, w, C] say of every intensity."""
        return self.reader(small)

    def states(self, tokens: Tensor, places: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """f32[B, T, D] of tokens i64[B, T] at positions i64[(B,) T], with their `places` [B, T, D]."""
        turns = self.turns[:, positions]
        x = self.embedding(tokens) + places
        for number, layer in enumerate(self.layers):
            x = layer(x, turns, number, attend)
        return self.norm(x)

    def get_output_embeddings(self) -> nn.Linear:
        """The output matrix, by the name that transformers gives it."""
        return self.output

    def save(self, folder: Path) -> None:
        """Write config and weights into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        config = {"model_type": "pixel", **asdict(self.config)}
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The model in a folder, for use; FormatError where it is missing or another kind."""
        from safetensors.torch import load_file

        config = json_file(folder / CONFIG)
        if config.pop("model_type", None) != "pixel":
            raise FormatError(f"{folder / CONFIG} is not of a pixel model")
        try:
            made = PixelConfig(**config)
            _check_shapes(made, FolderWeights(folder).tensors)
            model = cls(made)
            model.load_state_dict(load_file(folder / WEIGHTS))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise FormatError(f"{folder} does not hold a whole pixel model: {reason}") from error
        return model.eval()


def _check_shapes(config: PixelConfig, tensors: Mapping[str, RawTensor]) -> None:
    """Before any memory is taken: the tensors that decide how large a model is are those of the file."""
    width = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (NUM_LEVELS + 1, width),
        "reader.position": (config.num_intensities, width),
        "reader.spread.weight": (width * config.channels * config.factor**2, width, 1, 1),
    }
    layers = (
        (f"layers.{i}.widen.weight", (config.feedforward_size, width)) for i in range(config.num_layers)
    )
    for name, shape in itertools.chain(shapes.items(), layers):
        found = tensors[name].shape if name in tensors else "missing"
        if found != shape:
            raise FormatError(f"the tensor {name} is {found}, the configuration needs {shape}")


class _SmallReader(nn.Module):
    """The small picture, read by convolutions and spread over the pixels that each of its pixels covers.

    Beside that the picture enlarged by bicubic interpolation, a first guess at every intensity.
    """

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        width, self._factor = config.hidden_size, config.factor
        out = width * config.channels * config.factor**2
        self.stem = nn.Conv2d(config.channels, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.spread = nn.Conv2d(width, out, 1)
        self.embedding = nn.Embedding(NUM_LEVELS, width)
        self.position = nn.Parameter(torch.zeros(config.num_intensities, width))

    def forward(self, small: Tensor) -> Tensor:
        """f32[B, N, D] of u8[B, h, w, C]."""
        seen = small.permute(0, 3, 1, 2).float() / (NUM_LEVELS - 1) - 0.5
        seen = functional.gelu(self.stem(seen))
        seen = seen + functional.gelu(self.mix(seen))
        wide = functional.pixel_shuffle(self.spread(seen), self._factor)  # [B, D * C, H, W]
        batch, height, width = len(wide), *wide.shape[2:]
        channels = small.shape[3]
        places = wide.view(batch, -1, channels, height, width).permute(0, 3, 4, 2, 1)
        places = places + self.embedding(_enlarged(small, self._factor))
        return places.reshape(batch, height * width * channels, -1) + self.position


def _enlarged(small: Tensor, factor: int) -> Tensor:
    """i64[B, h * factor, w * factor, C] of u8[B, h, w, C]: bicubic, as torch has it (a = -0.75)."""
    values = small.permute(0, 3, 1, 2).float()
    wide = functional.interpolate(values, scale_factor=factor, mode="bicubic", align_corners=False)
    return wide.round().clamp(0, NUM_LEVELS - 1).long().permute(0, 2, 3, 1)


class _Layer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.mixed = nn.Linear(width, 3 * width, bias=False)  # queries, keys and values
        self.merge = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.feedforward_size)
        self.narrow = nn.Linear(config.feedforward_size, width)

    def forward(self, x: Tensor, turns: Tensor, number: int, attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        batch, length, width = x.shape
        mixed = self.mixed(self.attention_norm(x)).view(batch, length, 3 * self.num_heads, -1)
        turned = _turn(mixed[:, :, : 2 * self.num_heads], turns).transpose(1, 2)
        queries, keys = turned.chunk(2, dim=1)
        seen = attend(number, queries, keys, mixed[:, :, 2 * self.num_heads :].transpose(1, 2))
        x = x + self.merge(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(functional.gelu(self.widen(self.feedforward_norm(x))))


def blocked(window: int) -> Attend:
    """Attention of whole lines: queries in blocks, which see their own block and the one before."""

    def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, heads, length, dim = queries.shape
        block = min(window, length)
        count = -(-length // block)
        queries, keys, values = (
            functional.pad(x, (0, 0, 0, count * block - length)).view(batch, heads, count, block, dim)
            for x in (queries, keys, values)
        )
        # The block before the first is the last one, which the mask hides.
        keys, values = (torch.cat([x.roll(1, 2), x], dim=3) for x in (keys, values))
        seen = functional.scaled_dot_product_attention(
            queries.flatten(1, 2),
            keys.flatten(1, 2),
            values.flatten(1, 2),
            attn_mask=_band(heads, count, block, window, queries.device),
        )
        return seen.view(batch, heads, count * block, dim)[:, :, :length]

    return attend


@lru_cache(maxsize=16)
def _band(heads: int, count: int, block: int, window: int, device: torch.device) -> Tensor:
    """f32[1, heads * count, block, 2 * block]: 0 where a query sees a key of its block and the one before."""
    distance = torch.arange(block)[:, None] + block - torch.arange(2 * block)
    seen = ((distance >= 0) & (distance < window)).repeat(heads, count, 1, 1)
    seen[:, 0, :, :block] = False
    mask = torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)
    return mask.flatten(0, 1)[None].to(device)


def _turns(config: PixelConfig) -> Tensor:
    """f32[2, N, 1, dim / 2]: cosines and sines of what position t turns the pairs of a head by."""
    pixels = torch.arange(config.num_intensities) // config.channels
    count = config.hidden_size // config.num_heads // 4
    speeds = torch.logspace(0, -math.log10(max(config.height, config.width)), count)
    places = torch.stack([pixels // config.width, pixels % config.width], dim=1)
    angles = (places[:, :, None] * speeds).flatten(1)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None]


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions: pairs (i, i + dim / 2) of [B, T, heads, dim], turned by [2, (B,) T, 1, dim / 2]."""
    cos, sin = turns
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _sinusoids(width: int) -> Tensor:
    """f32[256, width]: sines and cosines of an intensity, waves of 2 to 512 levels."""
    waves = torch.logspace(math.log10(2 * NUM_LEVELS), math.log10(2), width // 2)
    phases = torch.arange(NUM_LEVELS)[:, None] * (2 * math.pi / waves)
    return torch.cat([phases.sin(), phases.cos()], dim=1) / math.sqrt(2)
