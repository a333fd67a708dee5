"""The network of the small vision-language-action policy.

Images, state and instruction become prefix tokens. A prefix transformer runs over them once and leaves the keys and
values of each of its layers; an action expert denoises any number of chunks against them, one joint attention over
prefix and chunk per layer, as in pi0 (Black et al. 2024, arXiv 2410.24164, section IV), at a ten-thousandth of its
size. Noise becomes actions by flow matching (Lipman et al. 2023, arXiv 2210.02747): x_t = (1 - t) noise + t chunk,
and the expert predicts dx/dt = chunk - noise.

Dimensions: B observations, M chunks of each, H actions per chunk, A numbers per action, P prefix tokens, D width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

# Keys and values of one layer, each [B, heads, P, D / heads].
LayerCache = tuple[Tensor, Tensor]
_FREQUENCIES = 4
_TIME_FREQUENCIES = 8


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Attributes:
        n_action: A.
        n_state: S.
        horizon: H.
        trunks: for each camera the index of its image trunk; cameras with the same index share weights.
        width: D, of every token.
        heads: attention heads.
        layers: of the prefix transformer and of the action expert, which attend pairwise.
        channels: of the image trunk.
        blocks: residual blocks of the image trunk.
        keypoints: spatial-softmax maps of each camera.
        keypoints_per_token: maps combined into one token.
        buckets: of the instruction's n-grams.
        max_words: of the instruction.
        text_width: of an n-gram's embedding.
    """

    n_action: int
    n_state: int
    horizon: int
    trunks: tuple[int, ...]
    width: int = 128
    heads: int = 4
    layers: int = 3
    channels: int = 64
    blocks: int = 2
    keypoints: int = 32
    keypoints_per_token: int = 4
    buckets: int = 2048
    max_words: int = 24
    text_width: int = 64


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Float[Tensor, "B n D"]:
    """Multi-head attention on tensors [B, heads, n, D / heads]; concatenates the heads.

    Not torch's fused kernel, whose backward pass takes three times as long on a CPU for a hundred tokens.
    """
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    mixed: Tensor = logits.softmax(-1).to(value.dtype) @ value
    return mixed.transpose(1, 2).flatten(2)


def fourier(x: Float[Tensor, "*n"], n_frequencies: int) -> Float[Tensor, "*n features"]:
    """Return sines and cosines of pi x at octaves, so that fine positions survive rounding to bfloat16."""
    angles = x[..., None] * (math.pi * 2.0 ** torch.arange(n_frequencies, dtype=torch.float32))
    return torch.cat([angles.sin(), angles.cos()], -1)


class Heads(nn.Module):
    """A linear projection to `n` sets of attention heads."""

    def __init__(self, width: int, heads: int, n: int) -> None:
        super().__init__()
        self.shape = (n, heads, width // heads)
        self.linear = nn.Linear(width, n * width)

    def forward(self, x: Float[Tensor, "B n D"]) -> tuple[Tensor, ...]:
        """Return `n` tensors [B, heads, tokens, D / heads]."""
        sets: Tensor = self.linear(x)
        return sets.view(*x.shape[:2], *self.shape).permute(2, 0, 3, 1, 4).unbind(0)


class Mlp(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class TextEncoder(nn.Module):
    """Words to tokens: scaled sums of n-gram embeddings plus position embeddings, mixed by one transformer layer.

    Positions start at the scale of words, so that the MLP can combine both: "red" means something else as the first
    word than as the second.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.grams = nn.Embedding(config.buckets, config.text_width, padding_idx=0)
        self.project = nn.Linear(config.text_width, width)
        self.place = nn.Parameter(0.3 * torch.randn(config.max_words, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = Heads(width, config.heads, 3)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, ids: Int64[Tensor, "B W G"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return word tokens [B, W, D], the mask of actual words [B, W], and their mean [B, D]."""
        counts = (ids != 0).sum(-1, keepdim=True)
        words = self.grams(ids).sum(2) / counts.clamp(min=1).sqrt()
        tokens = self.project(words) + self.place[: ids.shape[1]]
        real = counts[..., 0] > 0
        # The first token stays visible, so that an instruction without words has something to attend to.
        real = real | (torch.arange(ids.shape[1]) == 0)
        query, key, value = self.qkv(self.norm(tokens))
        tokens = tokens + self.out(attend(query, key, value, real[:, None, None]))
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        weights = real[..., None].to(tokens.dtype)
        return tokens, real, (tokens * weights).sum(1) / weights.sum(1)


class FilmBlock(nn.Module):
    """A residual block whose features are scaled and shifted by the instruction (Perez et al. 2018, 1709.07871)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(4, channels)
        self.film = nn.Linear(width, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B c h w"], words: Float[Tensor, "B D"]) -> Float[Tensor, "B c h w"]:
        """Return the features of the same shape."""
        scale, shift = self.film(words)[..., None, None].chunk(2, dim=1)
        y = self.norm(self.first(functional.relu(x)))
        changed: Tensor = self.second(functional.relu(y + y * scale + shift))
        return x + changed


class ImageTrunk(nn.Module):
    """Maps an image to keypoint tokens.

    Two strided convolutions preserve the sub-pixel position of small objects, which one patch convolution loses; a
    spatial softmax (Levine et al. 2016, 1504.00702, section 5.1) reads it out as coordinates, together with the
    features at that position.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.channels
        self.group = config.keypoints_per_token
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.down = nn.Conv2d(24, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(FilmBlock(channels, config.width) for _ in range(config.blocks))
        self.maps = nn.Conv2d(channels, config.keypoints, 1)
        self.project = nn.Linear(self.group * (channels + 2 * (1 + 2 * _FREQUENCIES)), config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.keypoints // self.group, config.width))

    def forward(self, images: Float[Tensor, "B 3 h w"], words: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor]:
        """Return keypoints / keypoints_per_token tokens of each image [B, K, D], and the maps' logits [B, k, h', w'].

        Pictures hold numbers in [-1, 1].
        """
        precision = self.stem.weight.dtype  # lower than the tokens' at inference
        images = images.to(precision, memory_format=torch.channels_last)
        x = self.down(functional.relu(self.stem(images)))
        for block in self.blocks:
            x = block(x, words.to(precision))
        x = functional.relu(x)
        maps = self.maps(x).float()
        attention = maps.flatten(2).softmax(-1)
        pixels = x.flatten(2).transpose(1, 2)
        features = attention.to(pixels.dtype) @ pixels
        xy = _expected_position(attention, x.shape[-2], x.shape[-1])
        keypoints = torch.cat([features.float(), xy, fourier(xy, _FREQUENCIES).flatten(2)], -1)
        tokens: Tensor = self.project(keypoints.reshape(len(images), len(self.place), -1).to(precision))
        return tokens.to(words.dtype) + self.place, maps


def _expected_position(attention: Float[Tensor, "B k n"], height: int, width: int) -> Float[Tensor, "B k 2"]:
    """Return the mean (x, y) of each map, in [-1, 1], in full precision: a cell is centimetres wide."""
    with torch.autocast("cpu", enabled=False):
        return attention @ cell_centres(height, width)


def cell_centres(height: int, width: int) -> Float[Tensor, "n 2"]:
    """Return (x, y) of the cells of a map, row by row: the picture's edges are at -1 and 1."""
    across = torch.linspace(-1 + 1 / width, 1 - 1 / width, width).repeat(height)
    down = torch.linspace(-1 + 1 / height, 1 - 1 / height, height).repeat_interleave(width)
    return torch.stack([across, down], -1)


class PrefixLayer(nn.Module):
    """A pre-norm transformer layer that returns its keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = Heads(width, heads, 3)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Float[Tensor, "B P D"], mask: Tensor | None) -> tuple[Tensor, LayerCache]:
        """Return the tokens for the next layer and this layer's cache."""
        query, key, value = self.qkv(self.norm(x))
        x = x + self.out(attend(query, key, value, mask))
        return x + self.mlp(self.mlp_norm(x)), (key, value)


class Encoded(NamedTuple):
    """An encoded observation: the layers' caches, the token mask (None: all), the logits of the first camera's maps."""

    caches: list[LayerCache]
    mask: Tensor | None
    maps: Tensor


class Prefix(nn.Module):
    """The part of the network that depends on the observation alone."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.trunk_of = config.trunks
        self.text = TextEncoder(config)
        self.trunks = nn.ModuleList(ImageTrunk(config) for _ in range(max(config.trunks) + 1))
        self.camera = nn.Parameter(0.02 * torch.randn(len(config.trunks), 1, config.width))
        self.state = nn.Sequential(nn.Linear(config.n_state, config.width), nn.GELU())
        self.state_out = nn.Linear(config.width, 2 * config.width)
        self.layers = nn.ModuleList(PrefixLayer(config.width, config.heads) for _ in range(config.layers - 1))
        self.last_norm = nn.LayerNorm(config.width)
        self.last = Heads(config.width, config.heads, 2)

    def forward(
        self, images: Float[Tensor, "B C 3 h w"], state: Float[Tensor, "B S"], ids: Int64[Tensor, "B W G"]
    ) -> Encoded:
        """Encode observations: pictures in [-1, 1], normalised states, words."""
        words, real, sentence = self.text(ids)
        looks, maps = self._look(images, sentence)
        body = self.state_out(self.state(state)).view(len(state), 2, -1)
        x = torch.cat([*looks, body, words], 1)
        mask = None
        if not bool(real.all()):
            others = real.new_ones(len(real), x.shape[1] - real.shape[1])
            mask = torch.cat([others, real], 1)[:, None, None]
        caches: list[LayerCache] = []
        for layer in self.layers:
            x, cache = layer(x, mask)
            caches.append(cache)
        key, value = self.last(self.last_norm(x))
        return Encoded([*caches, (key, value)], mask, maps)

    def _look(self, images: Float[Tensor, "B C 3 h w"], sentence: Float[Tensor, "B D"]) -> tuple[list[Tensor], Tensor]:
        """Return each camera's tokens, and the first camera's maps; cameras of one trunk are batched."""
        tokens: list[Tensor] = [images] * len(self.trunk_of)
        maps = images
        for number, trunk in enumerate(self.trunks):
            cameras = [c for c, t in enumerate(self.trunk_of) if t == number]
            seen, logits = trunk(images[:, cameras].flatten(0, 1), sentence.repeat_interleave(len(cameras), 0))
            if 0 in cameras:
                maps = logits[:: len(cameras)]
            for camera, each in zip(cameras, seen.view(len(images), -1, *seen.shape[1:]).unbind(1), strict=True):
                tokens[camera] = each + self.camera[camera]
        return tokens, maps


class ExpertLayer(nn.Module):
    """A transformer layer over action tokens that also attends to a prefix layer's cache.

    Time conditions the scales and shifts of the normalisations (adaLN: Peebles & Xie 2023, 2212.09748).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = Heads(width, heads, 3)
        self.out = nn.Linear(width, width)
        self.mlp = Mlp(width)

    def forward(
        self, x: Float[Tensor, "B n D"], cache: LayerCache, mask: Tensor | None, time: tuple[Tensor, ...]
    ) -> Float[Tensor, "B n D"]:
        """Return the tokens for the next layer; `time` holds scale, shift, scale, shift, broadcast over tokens."""
        query, key, value = self.qkv(self.norm(x) * time[0] + time[1])
        key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        x = x + self.out(attend(query, key, value, mask))
        change: Tensor = self.mlp(self.norm(x) * time[2] + time[3])
        return x + change


class Expert(nn.Module):
    """Predicts the velocity of M noisy chunks of each observation.

    The chunks of an observation form one sequence with a block-diagonal mask, so that its cache is never repeated.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Linear(config.n_action, width)
        self.place = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.time = nn.Sequential(nn.Linear(2 * _TIME_FREQUENCIES, width), nn.SiLU())
        self.modulate = nn.Linear(width, (4 * config.layers + 2) * width)
        self.layers = nn.ModuleList(ExpertLayer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.velocity = nn.Linear(width, config.n_action)
        nn.init.zeros_(self.velocity.weight)

    def modulation(self, time: Float[Tensor, "*n"]) -> Float[Tensor, "*n numbers"]:
        """Return all scales (around 1) and shifts (around 0) for time t in [0, 1]."""
        values: Tensor = self.modulate(self.time(fourier(time, _TIME_FREQUENCIES)))
        ones = torch.tensor([1.0, 0.0], dtype=values.dtype).repeat_interleave(self.place.shape[1])
        return values + ones.repeat(values.shape[-1] // len(ones))

    def forward(
        self,
        noisy: Float[Tensor, "B M H A"],
        modulation: Float[Tensor, "b m numbers"],
        caches: list[LayerCache],
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity [B, M, H, A] and the hidden state before the output layer [B, M, H, D].

        `modulation` has one entry per chunk, or a single one if all chunks are at the same time.
        """
        n_chunks, horizon, width = noisy.shape[1], *self.place.shape
        time = modulation
        if modulation.shape[1] > 1:
            time = modulation.repeat_interleave(horizon, 1)
        times = time.view(*time.shape[:2], -1, width).unbind(-2)
        x = (self.embed(noisy) + self.place).flatten(1, 2)
        for i, layer in enumerate(self.layers):
            x = layer(x, caches[i], mask, times[4 * i : 4 * i + 4])
        x = (self.norm(x) * times[-2] + times[-1]).view(len(noisy), n_chunks, horizon, width)
        return self.velocity(x), x


def chunk_mask(prefix_mask: Tensor | None, n_prefix: int, n_chunks: int, horizon: int) -> Tensor | None:
    """Return the attention mask of action tokens [B | 1, 1, M H, P + M H]: the prefix and their chunk.

    None, for no mask, if there is one chunk and the prefix is not masked.
    """
    if n_chunks == 1 and prefix_mask is None:
        return None
    same_chunk = torch.eye(n_chunks, dtype=torch.bool).repeat_interleave(horizon, 0).repeat_interleave(horizon, 1)
    prefix = same_chunk.new_ones(1, 1, 1, n_prefix) if prefix_mask is None else prefix_mask
    n_batch, n_tokens = len(prefix), n_chunks * horizon
    return torch.cat([prefix.expand(n_batch, 1, n_tokens, n_prefix), same_chunk.expand(n_batch, 1, -1, -1)], -1)


class MiniVlaNetwork(nn.Module):
    """Prefix and expert."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.prefix = Prefix(config)
        self.expert = Expert(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    def velocity(
        self, noisy: Float[Tensor, "B M H A"], time: Float[Tensor, "B M"], caches: list[LayerCache], mask: Tensor | None
    ) -> Float[Tensor, "B M H A"]:
        """Return the velocity of chunks at their own times, for training."""
        joint = chunk_mask(mask, caches[0][0].shape[2], noisy.shape[1], noisy.shape[2])
        velocity: Tensor
        velocity, _ = self.expert(noisy, self.expert.modulation(time), caches, joint)
        return velocity
