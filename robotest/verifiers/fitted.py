"""The file format of fitted verifiers, and the verifier that scores with such a file.

One safetensors file: arrays, and JSON metadata with their meaning, the policy they belong to, and the scores of
held-out demonstrations, for calibrating a threshold. Nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from robotest.errors import ArtifactError, InvalidActionError, SpecMismatchError
from robotest.files import DATA_NOTE, POLICY_FILE, write_whole
from robotest.specs import PolicySpec, VerifierSpec
from robotest.types import Candidates, Observation
from robotest.verifiers.pooling import POOLINGS, FeatureMap

FORMAT = 2
QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_KEY = "robotest"

Score = Callable[[Float32[np.ndarray, "M K"]], Float64[np.ndarray, " M"]]
"""Mapped feature vectors -> their support; higher is better."""
MakeScore = Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Score]
"""Tensors and hyperparameters -> `Score`."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A fitted verifier as data.

    Attributes:
        kind: ``cfn``, ``leverage`` or ``knn``.
        policy_fingerprint: the policy whose features it was fitted to.
        feature: name of the feature.
        features: maps token features to the vector that is scored.
        hyperparameters: of the fit.
        n_samples: training samples.
        quantiles: (level, score) of held-out demonstrations; 1 % of them score below that of level 0.01.
        tensors: the kind's own arrays.
    """

    kind: str
    policy_fingerprint: str
    feature: str
    features: FeatureMap
    hyperparameters: Mapping[str, Any]
    n_samples: int
    quantiles: tuple[tuple[float, float], ...]
    tensors: Mapping[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write the file atomically; `ArtifactError` if it cannot be written or a number is not finite."""
        arrays = {f"{self.kind}.{name}": np.ascontiguousarray(value) for name, value in self.tensors.items()}
        arrays |= {"features.mean": self.features.mean, "features.matrix": self.features.matrix}
        meta = {
            "kind": self.kind,
            "format": FORMAT,
            "policy_fingerprint": self.policy_fingerprint,
            "feature": self.feature,
            "pooling": self.features.pooling,
            "feature_shape": self.features.feature_shape,
            "hyperparameters": dict(self.hyperparameters),
            "n_samples": self.n_samples,
            "quantiles": self.quantiles,
            "digest": _digest(arrays),
        }
        broken = _not_finite(arrays, self.quantiles)
        if broken is not None:
            raise ArtifactError(
                f"verifier {self.kind!r} is not written to {path}: its {broken} is NaN or infinite; the policy's"
                " features are too large or too similar for these settings"
            )
        try:
            # Not `save_file`, which makes the file unreadable for other users.
            write_whole(path, to_bytes(arrays, {_KEY: json.dumps(meta, allow_nan=False)}))
        except (OSError, SafetensorError, ValueError) as error:
            raise ArtifactError(
                f"cannot write verifier {path}: {error}; free some space or choose another --out"
            ) from error

    @classmethod
    def load(cls, path: Path, kind: str) -> Artifact:
        """Read a file back.

        Raises:
            ArtifactError: it is missing, damaged, not finite, or not a verifier of this `kind`.
        """
        if not path.is_file():
            raise ArtifactError(f"no {kind} verifier at {path}; fit it with `{fit_command(kind, path, path.parent)}`")
        # Suggest another file name: the existing file may be something else, and worth keeping.
        new = path.with_name(f"new-{path.name}")
        remedy = f"give another file, or fit one with `{fit_command(kind, new, path.parent)}`"
        try:
            with safe_open(path, framework="numpy") as file:
                meta = json.loads((file.metadata() or {})[_KEY])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if (meta["kind"], meta["format"]) != (kind, FORMAT):
                raise ArtifactError(
                    f"{path} holds a {meta['kind']!r} verifier of format {meta['format']}, not {kind!r} of format"
                    f" {FORMAT}; {remedy}"
                )
            if _digest(arrays) != meta["digest"]:
                raise ArtifactError(f"{path} is damaged: its contents do not match their digest; {remedy}")
            broken = _not_finite(arrays, meta["quantiles"])
            if broken is not None:
                raise ArtifactError(f"{path} cannot score: its {broken} is NaN or infinite; {remedy}")
            return cls._from_parts(meta, arrays)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path} is damaged or not a robotest verifier ({error!r}); {remedy}") from error

    @classmethod
    def _from_parts(cls, meta: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Artifact:
        if meta["pooling"] not in POOLINGS:
            raise ValueError(f"pooling {meta['pooling']!r}")
        tokens, width = meta["feature_shape"]
        features = FeatureMap(
            meta["pooling"], (tokens, width), arrays.pop("features.mean"), arrays.pop("features.matrix")
        )
        return cls(
            kind=meta["kind"],
            policy_fingerprint=meta["policy_fingerprint"],
            feature=meta["feature"],
            features=features,
            hyperparameters=meta["hyperparameters"],
            n_samples=meta["n_samples"],
            quantiles=tuple((level, score) for level, score in meta["quantiles"]),
            tensors={name.partition(".")[2]: value for name, value in arrays.items()},
        )


def fit_command(kind: str, out: Path, folder: Path | None = None) -> str:
    """Return the command line that fits a verifier.

    Unknown parts are placeholders in capitals: POLICY if `folder` holds no policy, DEMOS.h5 if the policy file names no
    existing demonstrations.
    """
    file = folder / POLICY_FILE if folder else None
    policy = shlex.quote(str(folder)) if file and file.is_file() else "POLICY"
    data = demonstrations_of(file) if file and file.is_file() else None
    demonstrations = "DEMOS.h5" if data is None else shlex.quote(str(data))
    return f"robotest fit --verifier {kind} --out {shlex.quote(str(out))} --policy {policy} --data {demonstrations}"


def demonstrations_of(policy: Path) -> Path | None:
    """Return the demonstrations that a policy was trained on according to its file, if they still exist."""
    text = notes_of(policy).get(DATA_NOTE)
    return Path(text) if text and Path(text).exists() else None


def notes_of(policy: Path) -> dict[str, str]:
    """Return the metadata of a policy file; empty if it cannot be read."""
    try:
        with safe_open(policy, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _not_finite(arrays: Mapping[str, np.ndarray], quantiles: Iterable[Sequence[float]]) -> str | None:
    """Return the name of an array, or of the score, that is not finite; None if all are finite."""
    broken = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if not np.isfinite([score for _, score in quantiles]).all():
        broken.append("score of held-out demonstrations")
    return broken[0] if broken else None


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class FittedVerifier:
    """Scores candidates by a fitted `Artifact`; the one `Verifier` behind ``cfn``, ``leverage`` and ``knn``."""

    artifact: Artifact
    score_mapped: Score

    @property
    def spec(self) -> VerifierSpec:
        """Return the feature it needs, and the policy it was fitted to."""
        return VerifierSpec(self.artifact.kind, self.artifact.feature, self.artifact.policy_fingerprint)

    def score(
        self,
        observation: Observation,  # noqa: ARG002 - the features depend on it
        candidates: Candidates,
        seed: int,  # noqa: ARG002 - nothing is drawn
    ) -> Float64[np.ndarray, " M"]:
        """Return the support of each candidate, higher is better.

        Raises:
            SpecMismatchError: the candidates carry no features.
            InvalidActionError: features of another shape or not finite, or a score that is not finite.
        """
        features = candidates.features.get(self.artifact.feature)
        if features is None:
            raise SpecMismatchError(
                f"verifier {self.artifact.kind!r} needs the feature {self.artifact.feature!r}; the candidates have"
                f" {', '.join(candidates.features) or 'none'}; use a policy with it, or the verifier 'medoid'"
            )
        scores = self.score_features(features)
        if not np.isfinite(scores).all():
            raise InvalidActionError(f"verifier {self.artifact.kind!r} scored a candidate NaN or infinite")
        return scores

    def score_features(self, features: Float32[np.ndarray, "N T F"]) -> Float64[np.ndarray, " N"]:
        """Return the scores of token features outside a decision, e.g. of demonstrations."""
        return self.score_mapped(self.artifact.features(features))

    def support_levels(self, scores: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"] | None:
        """Return which fraction of held-out demonstration chunks scores below each score: the inverse of `threshold`.

        Interpolated between the stored quantiles, and so never below the first of their levels nor above the last,
        0.001 and 0.99: a score far below all demonstrations has level 0.001. None without held-out demonstrations.
        """
        if not self.artifact.quantiles:
            return None
        levels, quantiles = zip(*self.artifact.quantiles, strict=True)
        return np.asarray(np.interp(scores, quantiles, levels))

    def threshold(self, level: float) -> float:
        """Return the score that a fraction `level` of held-out demonstration chunks fall below."""
        if not self.artifact.quantiles:
            raise ArtifactError(
                "this verifier was fitted without held-out demonstrations, so it has no threshold; fit it again"
            )
        levels, scores = zip(*self.artifact.quantiles, strict=True)
        if not levels[0] <= level <= levels[-1]:
            raise ArtifactError(f"quantile level {level} is outside the stored range, {levels[0]} to {levels[-1]}")
        return float(np.interp(level, levels, scores))


def load_verifier(kind: str, policy: PolicySpec, path: Path | None, make_score: MakeScore) -> FittedVerifier:
    """Read the verifier of `policy` from `path`.

    Raises:
        ArtifactError: `path` is None, or the file is missing, damaged or of another kind.
        SpecMismatchError: the file belongs to another policy, or the policy gives no features.
    """
    if path is None:
        raise ArtifactError(
            f"verifier {kind!r} needs a file fitted to the policy, and none was given: fit one with"
            f" `{fit_command(kind, Path(f'{kind}.safetensors'))}` and select it as {kind}={kind}.safetensors"
        )
    artifact = Artifact.load(path, kind)
    again = f"fit it again with `{fit_command(kind, path, path.parent)} --overwrite`"
    try:
        verifier = FittedVerifier(artifact, make_score(artifact.tensors, artifact.hyperparameters))
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} lacks parts of a {kind} verifier ({error!r}); {again}") from error
    if artifact.policy_fingerprint != policy.fingerprint:
        raise SpecMismatchError(
            f"verifier {path} was fitted to policy {artifact.policy_fingerprint}, not to {policy.name!r}"
            f" ({policy.fingerprint}); {again}"
        )
    verifier.spec.require_fits(policy)
    return verifier
