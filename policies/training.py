"""`robotest train`: train a policy on demonstrations, on a laptop's CPU, resumable at any step.

Every step draws its batch, augmentation, noise and times from a separate generator, so an interrupted run continues
exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from robotest import files, interrupt
from robotest.config import TrainConfig
from robotest.demonstrations import files as demonstrations
from robotest.demonstrations.files import DatasetSpec, chunk_labels
from robotest.errors import ArtifactError, DivergedError, InterruptedRunError, SpecMismatchError
from robotest.files import DATA_NOTE, write_whole
from robotest.policies import mini_vla
from robotest.policies.mini_vla_network import MiniVlaNetwork, NetworkConfig, cell_centres
from robotest.policies.tokenizer import Tokenizer, pad
from robotest.randomness import derive, generator

CHECKPOINT_NAME = "train.ckpt.safetensors"
LOG_NAME = "train.jsonl"
START_STEPS = 3
_IDENTITY_NOTE = "training"
_POINT_SPREAD = 0.7  # standard deviation in cells of a map, so that a point between two cells involves both


Progress = Callable[[int, int, float], None]
"""Called after each step with its number, the total number of steps, and the loss."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """All steps of all demonstrations, N of them, in memory."""

    images: UInt8[np.ndarray, "N C h w 3"]
    state: Float32[np.ndarray, "N S"]
    labels: Float32[np.ndarray, "N H A"]
    words: Int64[np.ndarray, "I W G"]
    instruction: Int64[np.ndarray, " N"]
    points: Float32[np.ndarray, "N K 2"]
    step: Int64[np.ndarray, " N"]
    train: Int64[np.ndarray, " n"]
    held_out: Int64[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs of one training step; images and state are normalised."""

    images: Float[Tensor, "B C 3 h w"]
    state: Float[Tensor, "B S"]
    words: Int64[Tensor, "B W G"]
    points: Float[Tensor, "B K 2"]
    chunks: Float[Tensor, "B 1 H A"]
    noise: Float[Tensor, "B M H A"]
    time: Float[Tensor, "B M"]


def train(config: TrainConfig, progress: Progress) -> Path:
    """Train a policy and return its file. An existing policy of the same settings and data is left unchanged.

    Raises:
        ArtifactError: the demonstrations cannot be read or are not finite, the folder cannot be written, or it holds a
            policy or checkpoint of other settings or data and `TrainConfig.overwrite` is not set.
        DivergedError: a loss or a weight is not finite; the last checkpoint is kept, and no policy is written.
        InterruptedRunError: stopped by the user; the checkpoint is written and the same call continues.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    path = config.out / mini_vla.FILE_NAME
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        identity = None if config.overwrite or not path.exists() else _finished(config, path)
    except OSError as error:
        raise ArtifactError(f"cannot write policy folder {config.out}: {error}; choose another one") from error
    run = Run(config, *load_frames(config))
    if identity is not None:
        if identity != run.identity:
            raise _occupied(path, "trained on other demonstrations")
        return path
    run.resume()
    with interrupt.deferred():
        try:
            while run.step < config.steps:
                progress(run.step + 1, config.steps, run.advance())
                interrupt.check()
        except KeyboardInterrupt:
            run.checkpoint()
            raise InterruptedRunError(
                f"training stopped at step {run.step} of {config.steps}; the same command continues"
            ) from None
    mini_vla.save(path, run.bundle(), {_IDENTITY_NOTE: run.identity, DATA_NOTE: str(config.data)})
    (config.out / CHECKPOINT_NAME).unlink(missing_ok=True)
    return path


def _finished(config: TrainConfig, path: Path) -> str:
    """Return the training identity of an existing policy.

    Raises:
        ArtifactError: its settings differ, or are unknown; raised before any demonstration is read.
    """
    try:
        identity = mini_vla.read_notes(path).get(_IDENTITY_NOTE, "")
        existing = json.loads(identity)
    except (ArtifactError, ValueError):
        existing = None
    if not isinstance(existing, dict):
        raise _occupied(path, "with unknown training settings")
    for name, value in _settings(config).items():
        if existing.get(name) != value:
            raise _occupied(path, f"trained with {name} {existing.get(name)!r} and not {value!r}")
    return identity


def _occupied(path: Path, how: str) -> ArtifactError:
    return ArtifactError(f"{path} is there already, {how}; choose another --out, or give --overwrite to replace it")


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that determine the weights, together with the demonstrations."""
    ignored = {"data", "out", "log_every", "checkpoint_every", "threads", "overwrite"}
    return {k: v for k, v in vars(config).items() if k not in ignored}


class Run:
    """The state of a training run: weights, their moving average, optimiser moments, and the current step."""

    def __init__(
        self, config: TrainConfig, spec: DatasetSpec, frames: Frames, normalisation: mini_vla.Normalisation
    ) -> None:
        self.config = config
        self.step = 0
        self._frames = frames
        self._normalisation = normalisation
        self._sizes = NetworkConfig(
            n_action=spec.action.size,
            n_state=spec.state.size,
            horizon=config.horizon,
            trunks=trunks(tuple(spec.cameras)),
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive(config.seed, "weights") % 2**63)
            self._network = MiniVlaNetwork(self._sizes)
        self._average = copy.deepcopy(self._network).eval().requires_grad_(requires_grad=False)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self._interface = mini_vla.Interface(spec.action, spec.state, spec.cameras)
        data = _digest(self._interface, frames, normalisation)
        self.identity = json.dumps({**_settings(config), "data": data}, sort_keys=True, allow_nan=False)
        """Settings and digest of the data; equal for a checkpoint or a policy of this run."""
        self._losses: list[float] = []
        self._since = time.perf_counter()

    def advance(self) -> float:
        """Do one step and return its loss; log and checkpoint when due.

        Raises:
            DivergedError: the loss or its gradient is not finite; weights and step are unchanged.
        """
        batch = draw(self._frames, self.config, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        flow, pointing = losses(self._network, batch)
        loss = flow + self.config.pointing * pointing
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        gradient_norm = nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(float(gradient_norm))):
            raise self._diverged("the loss or its gradient")
        self._optimizer.step()
        self.step += 1
        self._follow()
        value = flow.item()
        self._losses.append(value)
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self._log()
        if self.step % self.config.checkpoint_every == 0 and self.step < self.config.steps:
            self.checkpoint()
        return value

    @torch.no_grad()
    def held_out_losses(self, start_share: float = 0.0) -> tuple[float, float] | None:
        """Return flow and pointing loss of the averaged weights on fixed held-out frames; None if there are none."""
        if not len(self._frames.held_out):
            return None
        plain = dataclasses.replace(
            self.config,
            batch=256,
            shift_px=0,
            colour=0.0,
            camera_dropout=0.0,
            word_dropout=0.0,
            state_noise=0.0,
            start_share=start_share,
        )
        frames = dataclasses.replace(self._frames, train=self._frames.held_out)
        flow, pointing = losses(self._average, draw(frames, plain, -1))
        return float(flow), float(pointing)

    def bundle(self) -> mini_vla.Bundle:
        """Return the current policy in float16: half the file size, and more precise than bfloat16 inference.

        Raises:
            DivergedError: a weight is not finite, or too large for float16.
        """
        weights = {name: weight.half() for name, weight in self._average.state_dict().items()}
        self._require_finite(weights)
        return mini_vla.Bundle(self.config.name, self._sizes, self._interface, self._normalisation, weights)

    def checkpoint(self) -> None:
        """Write everything that `resume` needs, atomically.

        Raises:
            ArtifactError: it cannot be written.
            DivergedError: a weight is not finite; the previous checkpoint is kept.
        """
        path = self.config.out / CHECKPOINT_NAME
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        self._require_finite(tensors)
        try:
            write_whole(path, to_bytes(tensors, {"run": self.identity, "step": str(self.step)}))
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(
                f"cannot write checkpoint {path}: {error}; free some space or choose another --out"
            ) from error

    def _require_finite(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise self._diverged(name)

    def _diverged(self, what: str) -> DivergedError:
        checkpoint = self.config.out / CHECKPOINT_NAME
        state = f"the last checkpoint, {checkpoint}, is kept" if checkpoint.exists() else "there is no checkpoint yet"
        return DivergedError(
            f"training stopped at step {self.step + 1} of {self.config.steps}: {what} is NaN or infinite; no policy is"
            f" written and {state}; use a lower --learning-rate than {self.config.learning_rate:g} and another --out"
        )

    def resume(self) -> None:
        """Continue from the folder's checkpoint, if any, and drop the log's lines of later steps.

        With `TrainConfig.overwrite` a checkpoint of another run is ignored; the next one replaces it.

        Raises:
            ArtifactError: it is damaged, or of other settings or data.
        """
        path = self.config.out / CHECKPOINT_NAME
        if path.exists():
            try:
                self._restore(path)
            except ArtifactError:
                if not self.config.overwrite:
                    raise
        self._trim_log()

    def _restore(self, path: Path) -> None:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (safetensors.SafetensorError, OSError) as error:
            raise ArtifactError(f"checkpoint {path} is damaged ({error}); delete it to start over") from error
        if metadata.get("run") != self.identity:
            raise ArtifactError(
                f"checkpoint {path} is of other settings or data; choose another --out, or give --overwrite to start"
                " over"
            )
        tensors = self._tensors()
        sound = stored.keys() == tensors.keys() and all(bool(t.isfinite().all()) for t in stored.values())
        if not sound or not metadata.get("step", "").isdecimal():
            raise ArtifactError(f"checkpoint {path} is damaged (it lacks parts, or is not finite); delete it")
        for name, tensor in tensors.items():
            tensor.data.copy_(stored[name])
        self.step = int(metadata["step"])

    def _trim_log(self) -> None:
        """Keep the lines of completed steps; others belong to another run, or will be written again."""
        path = self.config.out / LOG_NAME
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            completed = [line for line in lines if 0 < _step_of(line) <= self.step]
            if completed != lines:
                write_whole(path, "".join(f"{line}\n" for line in completed).encode())
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error}; choose another --out") from error

    def _follow(self) -> None:
        """Move the average towards the weights; early on it follows closely, so that it forgets the initial weights."""
        decay = min(self.config.ema, self.step / (10 + self.step))
        pairs = zip(self._average.parameters(), self._network.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight.detach(), 1 - decay)

    def _log(self) -> None:
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        images = len(self._losses) * self.config.batch * self._frames.images.shape[1]
        held_out, starts = (self.held_out_losses(share) or (None, None) for share in (0.0, 1.0))
        line = {
            "step": self.step,
            "loss": float(np.mean(self._losses)),
            "held_out_loss": held_out[0],
            "held_out_pointing": held_out[1],
            "held_out_start_loss": starts[0],
            "held_out_start_pointing": starts[1],
            "images_per_s": images / seconds,
            "learning_rate": learning_rate(self.config, self.step - 1),
        }
        self._losses = []
        # Non-finite values (of a diverged training) become null, so that each line is valid JSON.
        entries = {name: value if value is None or math.isfinite(value) else None for name, value in line.items()}
        path = self.config.out / LOG_NAME
        try:
            files.append_line(path, json.dumps(entries, allow_nan=False))
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error.strerror}; the same command continues") from error

    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run under its name in a checkpoint."""
        named: dict[str, Tensor] = {f"average.{k}": v for k, v in self._average.named_parameters()}
        for name, weight in self._network.named_parameters():
            moments: dict[str, Any] = self._optimizer.state[weight]
            if not moments:  # before the first step
                moments["step"] = torch.zeros(())
                moments["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                moments["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            named[f"network.{name}"] = weight
            named.update({f"{moment}.{name}": value for moment, value in moments.items()})
        return named


def _digest(interface: mini_vla.Interface, frames: Frames, normalisation: mini_vla.Normalisation) -> str:
    """Return a digest (32 hexadecimal digits) of all numbers, pictures and words of the demonstrations."""
    layouts = json.dumps(dataclasses.asdict(interface), sort_keys=True, allow_nan=False)
    digest = hashlib.blake2b(layouts.encode(), digest_size=16)
    for name, array in (*vars(frames).items(), *vars(normalisation).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _step_of(line: str) -> int:
    """Return the step of a line of the log; 0 for an invalid line."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to 1 % of the peak."""
    warm = min(1.0, (step + 1) / config.warmup)
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def losses(network: MiniVlaNetwork, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the two losses.

    The first is the mean squared error of the velocity (Lipman et al. 2023, equation 9, straight paths). The second is
    the divergence of the first camera's first K maps from the positions of the objects that the instruction names:
    localisation as an auxiliary task, as in pi0.5 (arXiv 2504.16054, section IV.C).
    """
    time_ = batch.time[..., None, None]
    noisy = (1 - time_) * batch.noise + time_ * batch.chunks
    with torch.autocast("cpu", torch.bfloat16, enabled=mini_vla.HAS_BF16):
        encoded = network.prefix(batch.images, batch.state, batch.words)
        velocity = network.velocity(noisy, batch.time, encoded.caches, encoded.mask)
    flow = (velocity.float() - (batch.chunks - batch.noise)).square().mean()
    return flow, pointing_loss(encoded.maps, batch.points)


def pointing_loss(maps: Float[Tensor, "B k h w"], points: Float[Tensor, "B K 2"]) -> Float[Tensor, ""]:
    """Return the mean divergence KL(blob around the point, softmax of its map) [nat]; points of NaN are ignored."""
    height, width = maps.shape[-2:]
    marked = points.isfinite().all(-1)
    if not bool(marked.any()):
        return maps.new_zeros(())
    cells = torch.tensor([width / 2, height / 2])
    offsets = (points.nan_to_num()[..., None, :] - cell_centres(height, width)) * cells
    blob = (-offsets.square().sum(-1) / (2 * _POINT_SPREAD**2)).log_softmax(-1)
    log_maps = maps[:, : points.shape[1]].flatten(2).log_softmax(-1)
    divergence: Tensor = (blob.exp() * (blob - log_maps)).sum(-1)
    return divergence[marked].mean()


def draw(frames: Frames, config: TrainConfig, step: int) -> Batch:
    """Return the batch of a step: frames of the training demonstrations, augmented, with noises and times."""
    rng = generator(derive(config.seed, "batch", step))
    starts = frames.train[frames.step[frames.train] < START_STEPS]
    n_starts = round(config.start_share * config.batch)
    rows = np.concatenate([rng.choice(starts, n_starts), rng.choice(frames.train, config.batch - n_starts)])
    n_draws, shape = config.draws, frames.labels.shape[1:]
    state = frames.state[rows] + config.state_noise * rng.standard_normal((len(rows), frames.state.shape[1]))
    # Times favour noise, where the mode is chosen: t = .999 (1 - Beta(1.5, 1)), pi0 appendix B; stratified.
    uniform = (np.arange(n_draws) + rng.random((len(rows), n_draws))) / n_draws
    shifts = rng.integers(-config.shift_px, config.shift_px, (len(rows), frames.images.shape[1], 2), endpoint=True)
    across_first = 2 * shifts[:, 0, ::-1] / np.array(frames.images.shape[3:1:-1])  # in units of half the picture's size
    return Batch(
        images=_augment(frames.images, rows, shifts, config, rng),
        state=torch.from_numpy(state.astype(np.float32)),
        words=torch.from_numpy(_drop_words(frames.words[frames.instruction[rows]], config.word_dropout, rng)),
        points=torch.from_numpy((frames.points[rows] - across_first[:, None]).astype(np.float32)),
        chunks=torch.from_numpy(frames.labels[rows][:, None]),
        noise=torch.from_numpy(rng.standard_normal((len(rows), n_draws, *shape), np.float32)),
        time=torch.from_numpy((0.999 * (1 - uniform ** (2 / 3))).astype(np.float32)),
    )


def _augment(
    images: UInt8[np.ndarray, "N C h w 3"],
    rows: Int64[np.ndarray, " B"],
    shifts: Int64[np.ndarray, "B C 2"],
    config: TrainConfig,
    rng: np.random.Generator,
) -> Float[Tensor, "B C 3 h w"]:
    """Return the rows' images, shifted with edge padding, with random gains and dropped cameras, in about [-1, 1]."""
    n_batch, (n_cameras, height, width) = len(rows), images.shape[1:4]
    down = np.clip(np.arange(height) + shifts[..., :1], 0, height - 1)
    across = np.clip(np.arange(width) + shifts[..., 1:], 0, width - 1)
    shifted = np.empty((n_batch, *images.shape[1:]), np.uint8)
    for b, row in enumerate(rows):
        for c in range(n_cameras):
            shifted[b, c] = images[row, c][down[b, c]][:, across[b, c]]
    per_image, per_channel = (n_batch, n_cameras, 1, 1, 1), (n_batch, n_cameras, 3, 1, 1)
    gain = 1 + config.colour * (rng.uniform(-1, 1, per_image) + 0.5 * rng.uniform(-1, 1, per_channel))
    offset = config.colour * rng.uniform(-1, 1, per_image)
    visible = rng.random(per_image) >= config.camera_dropout
    scaled = mini_vla.scale_images(torch.from_numpy(shifted))
    gain32, offset32 = ((part * visible).astype(np.float32) for part in (gain, offset))
    return scaled * torch.from_numpy(gain32) + torch.from_numpy(offset32)


def _drop_words(words: Int64[np.ndarray, "B W G"], rate: float, rng: np.random.Generator) -> Int64[np.ndarray, "B W G"]:
    """Return words with some dropped, and some without their whole-word bucket, as unseen words have."""
    dropped = np.where(rng.random(words.shape[:2])[..., None] < rate, 0, words)
    dropped[..., 0] = np.where(rng.random(words.shape[:2]) < 2 * rate, 0, dropped[..., 0])
    return dropped


def trunks(cameras: tuple[str, ...]) -> tuple[int, ...]:
    """Return the index of each camera's image trunk; left and right cameras of a kind share one."""
    kinds = [camera.replace("left", "").replace("right", "") for camera in cameras]
    return tuple(list(dict.fromkeys(kinds)).index(kind) for kind in kinds)


def load_frames(config: TrainConfig) -> tuple[DatasetSpec, Frames, mini_vla.Normalisation]:
    """Read all demonstrations into memory; return their spec, normalised frames, and the normalisation.

    Raises:
        ArtifactError: the file is missing, of another kind, has no demonstrations, or numbers too large for float32.
        SpecMismatchError: the cameras have different image sizes.
    """
    with demonstrations.read(config.data) as file:
        spec = file.spec
        if not len(file):
            out = shlex.quote(str(config.data))
            raise ArtifactError(
                f"{config.data} contains no demonstrations; collect some with `robotest collect --out {out}"
                " --overwrite`"
            )
        if len(set(spec.cameras.values())) != 1:
            raise SpecMismatchError(f"{config.data} has images of sizes {dict(spec.cameras)}; all must be equal")
        lengths = [file.steps(i) for i in range(len(file))]
        size = next(iter(spec.cameras.values()))
        images = np.empty((sum(lengths), len(spec.cameras), *size, 3), np.uint8)
        states, labels, instructions, points = [], [], [], []
        for start, each in zip(np.cumsum([0, *lengths]), file, strict=False):
            for c, camera in enumerate(spec.cameras):
                images[start : start + len(each), c] = each.images[camera]
            states.append(each.state)
            labels.append(chunk_labels(each.actions, each.anchors, config.horizon))
            instructions.append(each.info.instruction)
            points.append(each.points)
    with np.errstate(over="ignore", invalid="ignore"):  # the check below names the statistic
        n = normalisation = statistics(np.concatenate(labels), np.concatenate(states))
    for name, values in vars(n).items():
        if not np.isfinite(values).all():
            raise ArtifactError(f"{config.data}: its numbers are too large ({name} is not finite in float32)")
    known = sorted(set(instructions))
    tokenize = Tokenizer(NetworkConfig.buckets, NetworkConfig.max_words)
    held_out = np.repeat(_hold_out(len(lengths), config), lengths)
    frames = Frames(
        images=images,
        state=(np.concatenate(states) - n.state_mean) / n.state_std,
        labels=(np.concatenate(labels) - n.action_mean) / n.action_std,
        words=pad([tokenize(text) for text in known]),
        instruction=np.repeat(np.searchsorted(known, instructions), lengths),
        points=np.concatenate(points),
        step=np.concatenate([np.arange(n) for n in lengths]),
        train=np.flatnonzero(~held_out),
        held_out=np.flatnonzero(held_out),
    )
    return spec, frames, normalisation


def _hold_out(n_demonstrations: int, config: TrainConfig) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which demonstrations are held out; at least one remains for training."""
    n_held_out = min(round(config.held_out * n_demonstrations), n_demonstrations - 1)
    order = generator(derive(config.seed, "held out")).permutation(n_demonstrations)
    return np.isin(np.arange(n_demonstrations), order[:n_held_out])


def statistics(labels: Float32[np.ndarray, "N H A"], states: Float32[np.ndarray, "N S"]) -> mini_vla.Normalisation:
    """Return means and standard deviations.

    A deviation is at least a twentieth of the component's largest over the chunk (a chunk's first action hardly leaves
    its start), and at least 1e-4, so that constant components are not amplified.
    """
    action_std = labels.std(0)
    return mini_vla.Normalisation(
        action_mean=labels.mean(0),
        action_std=np.maximum(action_std, np.maximum(0.05 * action_std.max(0), 1e-4)).astype(np.float32),
        state_mean=states.mean(0),
        state_std=np.maximum(states.std(0), 1e-3).astype(np.float32),
    )
