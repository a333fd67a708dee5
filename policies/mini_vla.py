"""The shipped policy: a vision-language-action model of about a million parameters, with decisions in milliseconds.

A policy is one safetensors file: weights, normalisation, and the layouts of its inputs and outputs as metadata. The
observation is encoded once; its keys and values are shared by all candidates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shlex
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Float32
from safetensors.torch import save as to_bytes
from torch import Tensor

from robotest.errors import ArtifactError, SpecMismatchError
from robotest.files import POLICY_FILE, write_whole
from robotest.policies.mini_vla_network import LayerCache, MiniVlaNetwork, NetworkConfig, chunk_mask
from robotest.policies.tokenizer import Tokenizer, pad
from robotest.randomness import generator
from robotest.specs import PolicySpec, VectorSpec
from robotest.types import Candidates, Observation

FORMAT = "robotest-mini-vla-1"
FILE_NAME = POLICY_FILE
SHIPPED = Path(__file__).parent / "weights" / "mini_vla"
EULER_STEPS = 6
BLOCK = 8
"""Candidates denoised together. More are denoised in further blocks, so that no candidate depends on their number."""
RESIDUAL_TIME = 0.4
HAS_BF16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - no public equivalent
"""Whether this processor supports bfloat16, which denoises 8 candidates three times as fast; else float32 is used."""


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Means and standard deviations over the training data; the deviations have a floor and are never 0."""

    action_mean: Float32[np.ndarray, "H A"]
    action_std: Float32[np.ndarray, "H A"]
    state_mean: Float32[np.ndarray, " S"]
    state_std: Float32[np.ndarray, " S"]


@dataclasses.dataclass(frozen=True)
class Interface:
    """Layouts of the policy's inputs and outputs.

    Attributes:
        action: layout of its actions.
        state: layout of the state it reads.
        cameras: the images it reads, name -> (height, width) [px], in the order of `NetworkConfig.trunks`.
    """

    action: VectorSpec
    state: VectorSpec
    cameras: Mapping[str, tuple[int, int]]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        """Inverse of `dataclasses.asdict`."""
        cameras = {name: (int(size[0]), int(size[1])) for name, size in data["cameras"].items()}
        return cls(VectorSpec.from_json(data["action"]), VectorSpec.from_json(data["state"]), cameras)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The contents of a policy file.

    Attributes:
        name: for tables and records.
        config: sizes of the network.
        interface: layouts of its inputs and outputs.
        normalisation: of actions and states.
        weights: of the network, float16 or float32.
    """

    name: str
    config: NetworkConfig
    interface: Interface
    normalisation: Normalisation
    weights: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and normalisation under their names in the file."""
        numbers = {f"normalisation.{k}": torch.from_numpy(v) for k, v in vars(self.normalisation).items()}
        weights = {f"network.{k}": v.contiguous() for k, v in self.weights.items()}
        return dict(sorted({**numbers, **weights}.items()))

    def card(self) -> str:
        """Return the metadata, without the fingerprint, as canonical JSON."""
        parts = {"name": self.name, "config": vars(self.config), "interface": dataclasses.asdict(self.interface)}
        return json.dumps(parts, sort_keys=True, allow_nan=False)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any weight, statistic or setting."""
        digest = hashlib.blake2b(self.card().encode(), digest_size=8)
        for name, tensor in self.tensors().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


def save(path: Path, bundle: Bundle, notes: Mapping[str, str] | None = None) -> None:
    """Write a policy file atomically.

    Args:
        path: of the file.
        bundle: its contents.
        notes: additional metadata, see `read_notes`; not part of the fingerprint.

    Raises:
        ArtifactError: the path cannot be written, or a weight is not finite.
    """
    broken = _not_finite(bundle)
    if broken is not None:
        raise ArtifactError(f"policy {path} is not written: {broken} is NaN or infinite")
    metadata = {**(notes or {}), "format": FORMAT, "card": bundle.card(), "fingerprint": bundle.fingerprint()}
    try:
        write_whole(path, to_bytes(bundle.tensors(), metadata))
    except OSError as error:
        raise ArtifactError(f"cannot write policy {path}: {error}; free some space or choose another path") from error


def read_notes(path: Path) -> dict[str, str]:
    """Return the metadata of a policy file, including the notes passed to `save`.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"policy {path} is damaged ({error}); {_again(path)}") from error


def read(path: Path) -> Bundle:
    """Read a policy file.

    Raises:
        ArtifactError: it is missing, damaged, of another kind, or holds a weight that is not finite.
    """
    if not path.is_file():
        folder = shlex.quote(str(path.parent if path.name == FILE_NAME else path))
        raise ArtifactError(
            f"no policy at {path}; give a policy's folder, or train one with `robotest train --data DEMOS.h5 --out"
            f" {folder}`"
        )
    metadata = read_notes(path)
    if metadata.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} is not a mini_vla policy: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        bundle = _bundle(json.loads(metadata["card"]), tensors)
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"policy {path} is damaged ({error}); {_again(path)}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"policy {path} lacks or has unknown parts ({error!r}); {_again(path)}") from error
    if bundle.fingerprint() != metadata.get("fingerprint"):
        raise ArtifactError(f"policy {path} does not match its fingerprint: it was changed or damaged; {_again(path)}")
    broken = _not_finite(bundle)
    if broken is not None:
        raise ArtifactError(f"policy {path} cannot act: {broken} is NaN or infinite; {_again(path)}")
    return bundle


def _again(path: Path) -> str:
    folder = shlex.quote(str(path.parent))
    return f"copy it again, or train it again with `robotest train --data DEMOS.h5 --out {folder} --overwrite`"


def _not_finite(bundle: Bundle) -> str | None:
    """Return the name of the first tensor with a non-finite number, None if there is none."""
    return next((name for name, tensor in bundle.tensors().items() if not bool(tensor.isfinite().all())), None)


def _bundle(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Bundle:
    config = {**card["config"], "trunks": tuple(card["config"]["trunks"])}
    numbers = {f.name: tensors[f"normalisation.{f.name}"].numpy() for f in dataclasses.fields(Normalisation)}
    prefix = "network."
    return Bundle(
        name=card["name"],
        config=NetworkConfig(**config),
        interface=Interface.from_json(card["interface"]),
        normalisation=Normalisation(**numbers),
        weights={name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)},
    )


def load(path: Path | None = None) -> MiniVla:
    """Load a policy from its folder or file; None loads the shipped one.

    Raises:
        ArtifactError: the file is missing, damaged, or of another kind.
    """
    path = SHIPPED if path is None else Path(path)
    return MiniVla(read(path / FILE_NAME if path.is_dir() or path == SHIPPED else path))


Pass = Callable[..., tuple[Tensor, Tensor]]
"""One pass of the expert: (noisy chunks, modulation, keys and values of every layer) -> (velocity, hidden state)."""


class MiniVla:
    """Implements `robotest.types.Policy`. Observations are processed one by one, so results do not depend on the batch.

    On a CPU one observation with 8 candidates already fills the vector units, so a larger batch would gain little and
    make the last bits of a result depend on its other members.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._normalisation = bundle.normalisation
        self._config = config = bundle.config
        self._tokenize = Tokenizer(config.buckets, config.max_words)
        self._network = MiniVlaNetwork(config).eval().requires_grad_(False)
        try:
            self._network.load_state_dict(dict(bundle.weights))
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise ArtifactError(f"policy {bundle.name!r} has weights of another network: {first}") from error
        self._precision = torch.bfloat16 if HAS_BF16 else torch.float32
        with _one_thread(), torch.inference_mode():
            times = torch.tensor([*(i / EULER_STEPS for i in range(EULER_STEPS)), RESIDUAL_TIME])
            *self._modulations, self._residual_modulation = (
                self._network.expert.modulation(times[:, None, None]).to(self._precision).unbind(0)
            )
        for part in (self._network.prefix.trunks, self._network.expert):
            part.to(self._precision)
        self._traced: dict[tuple[int, int], Pass] = {}
        self._tracing = threading.Lock()
        self.spec = PolicySpec(
            name=bundle.name,
            fingerprint=bundle.fingerprint(),
            action=bundle.interface.action,
            state=bundle.interface.state,
            cameras=dict(bundle.interface.cameras),
            horizon=config.horizon,
            feature_shapes={
                "residual": (config.horizon, config.n_action),
                "hidden": (config.horizon, config.width),
            },
            action_scale=self._normalisation.action_std,
            concurrent=True,
            precision=str(self._precision).removeprefix("torch."),
        )

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        """Sample `n_candidates` chunks for each observation; see `robotest.types.Policy.sample`.

        There are two features, one vector for each action of the chunk. ``hidden``: the expert's states after the last
        normalisation at the last denoising step (TACO's choice). ``residual``: the error of the expert's velocity,
        v(t chunk + (1 - t) noise, t) - (chunk - noise), at t = 0.4 and with the noise at its mean, 0. Training
        minimises this error on the data, so it is small only for an observation and a chunk that occurred together, as
        in random network distillation (Burda et al. 2018, arXiv 1810.12894), with the policy as its own predictor. At
        intermediate t it separates modes; near t = 1 any chunk is predicted well.

        Raises:
            SpecMismatchError: an image or a state of another size than in training, or a missing camera.
        """
        with _one_thread():
            return [self._sample(o, seed, n_candidates) for o, seed in zip(observations, noise_seeds, strict=True)]

    @torch.inference_mode()
    def _sample(self, observation: Observation, noise_seed: int, n_candidates: int) -> Candidates:
        caches = self._encode(observation)
        shape = (n_candidates, self._config.horizon, self._config.n_action)
        noise = torch.from_numpy(generator(noise_seed).standard_normal(shape).astype(np.float32))
        blocks = [self._denoise(block[None], caches) for block in torch.split(noise, BLOCK)]
        chunks, hidden, residual = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
        n = self._normalisation
        features = {"residual": residual, "hidden": hidden}
        return Candidates(actions=chunks * n.action_std + n.action_mean, features=features)

    def _encode(self, observation: Observation) -> list[LayerCache]:
        self._require_sizes(observation)
        n = self._normalisation
        images = np.stack([observation.images[camera] for camera in self.spec.cameras])
        state = (observation.state - n.state_mean) / n.state_std
        ids = pad([self._tokenize(observation.instruction)])
        encoded = self._network.prefix(
            scale_images(torch.from_numpy(images)[None]), torch.from_numpy(state)[None], torch.from_numpy(ids)
        )
        return [(key.to(self._precision), value.to(self._precision)) for key, value in encoded.caches]

    def _denoise(
        self, noise: Float[Tensor, "1 M H A"], caches: list[LayerCache]
    ) -> tuple[Float[Tensor, "M H A"], Float[Tensor, "M H F"], Float[Tensor, "M H A"]]:
        """Follow the flow from noise to chunks in Euler steps; return them and their two features."""
        expert, cached = self._expert(noise, caches), [part for cache in caches for part in cache]
        chunk, hidden = noise, noise
        for modulation in self._modulations:
            velocity, hidden = expert(chunk.to(self._precision), modulation[None], *cached)
            chunk = chunk + velocity.float() / EULER_STEPS
        halfway = (RESIDUAL_TIME * chunk).to(self._precision)
        velocity, _ = expert(halfway, self._residual_modulation[None], *cached)
        return chunk[0], hidden[0].float(), velocity[0].float() - chunk[0]

    def _expert(self, noise: Float[Tensor, "1 M H A"], caches: list[LayerCache]) -> Pass:
        """Return the expert, traced for this number of chunks and length of prefix.

        The trace executes the same operations in the same order, so results are equal to the bit, but without the
        Python interpreter. That saves an eighth of a pass, and threads contend less. `torch.jit` is deprecated; its
        successors need a compiler (`torch.compile`) or the interpreter (`torch.export`). Without it this still works.
        """
        n_chunks, n_prefix = noise.shape[1], caches[0][0].shape[2]
        mask = chunk_mask(None, n_prefix, n_chunks, noise.shape[2])

        def plain(noisy: Tensor, modulation: Tensor, *cached: Tensor) -> tuple[Tensor, Tensor]:
            pairs = list(zip(cached[::2], cached[1::2], strict=True))
            result: tuple[Tensor, Tensor] = self._network.expert(noisy, modulation, pairs, mask)
            return result

        with self._tracing:
            if (n_chunks, n_prefix) not in self._traced:
                cached = [part for cache in caches for part in cache]
                example = (noise.to(self._precision), self._residual_modulation[None], *cached)
                self._traced[n_chunks, n_prefix] = _traced(plain, example)
        return self._traced[n_chunks, n_prefix]

    def _require_sizes(self, observation: Observation) -> None:
        for camera, size in self.spec.cameras.items():
            image = observation.images.get(camera)
            if image is None:
                raise SpecMismatchError(
                    f"policy {self.spec.name!r} needs camera {camera!r}; the observation has"
                    f" {', '.join(sorted(observation.images)) or 'none'}"
                )
            if image.shape != (*size, 3) or image.dtype != np.uint8:
                raise SpecMismatchError(
                    f"policy {self.spec.name!r} needs camera {camera!r} as uint8 {(*size, 3)}; it is {image.dtype}"
                    f" {image.shape}: set the environment's image size to {size[0]}"
                )
        if observation.state.shape != (self.spec.state.size,):
            raise SpecMismatchError(
                f"policy {self.spec.name!r} needs a state of {self.spec.state.size} numbers; its shape is"
                f" {observation.state.shape}"
            )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Restrict torch to the calling thread: splitting a sum over threads changes its last bits.

    The number of threads is a setting of the calling thread; it is restored.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _traced(function: Pass, example: tuple[Tensor, ...]) -> Pass:
    if not hasattr(torch.jit, "trace"):
        return function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecation, and about sizes becoming constants, which is intended
        traced: Pass = torch.jit.trace(function, example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def scale_images(images: Tensor) -> Float[Tensor, "*batch 3 h w"]:
    """Scale uint8 pictures [..., h, w, 3] to [-1, 1], channels first."""
    return (images.float() / 127.5 - 1).movedim(-1, -3)
