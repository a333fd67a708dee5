from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robotest.errors import ArtifactError, SpecMismatchError
from robotest.policies import mini_vla
from robotest.policies.mini_vla import Bundle, Interface, MiniVla, Normalisation
from robotest.policies.mini_vla_network import MiniVlaNetwork, NetworkConfig, chunk_mask
from robotest.policies.tokenizer import Tokenizer, pad
from robotest.specs import Component, VectorSpec
from robotest.types import Observation

CAMERAS = {"head": (32, 32), "left_wrist": (32, 32), "right_wrist": (32, 32)}
ACTION = VectorSpec("tip", (Component("left_tip", 3, "m", "position_xyz_world", -1, 1, "chunk_start"),))
STATE = VectorSpec("joints", (Component("left_joint", 5, "rad", "joint_position", -3, 3),))


def make_bundle(seed: int = 0, **sizes: int) -> Bundle:
    config = NetworkConfig(n_action=3, n_state=5, horizon=8, trunks=(0, 1, 1), **sizes)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MiniVlaNetwork(config)
        torch.nn.init.normal_(network.expert.velocity.weight, std=0.1)  # zero in a new network: all actions equal
    shapes = {"action_mean": (8, 3), "action_std": (8, 3), "state_mean": (5,), "state_std": (5,)}
    numbers = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}
    return Bundle("test", config, Interface(ACTION, STATE, CAMERAS), Normalisation(**numbers), network.state_dict())


@pytest.fixture(scope="module")
def policy() -> MiniVla:
    return MiniVla(make_bundle())


def observation(seed: int = 0, instruction: str = "put the red block on the blue one") -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (*size, 3), np.uint8) for camera, size in CAMERAS.items()}
    return Observation(images, rng.standard_normal(5, np.float32), instruction, 0.0)


def test_shapes_and_spec(policy: MiniVla) -> None:
    (candidates,) = policy.sample([observation()], [1], 9)
    assert candidates.actions.shape == (9, 8, 3)
    assert candidates.actions.dtype == np.float32
    assert {name: array.shape[1:] for name, array in candidates.features.items()} == policy.spec.feature_shapes
    assert {(len(array), array.dtype) for array in candidates.features.values()} == {(9, np.dtype(np.float32))}
    assert policy.spec.action_scale.shape == (8, 3)
    assert np.isfinite(candidates.actions).all()
    assert candidates.actions.std(0).min() > 0  # the candidates differ


def test_the_residual_is_the_error_of_the_velocity(policy: MiniVla) -> None:
    """Against the training network in full precision: v(0.4 chunk, 0.4) - chunk."""
    bundle, seen = make_bundle(), observation()
    network = MiniVlaNetwork(bundle.config).eval()
    network.load_state_dict(dict(bundle.weights))
    n = bundle.normalisation
    (candidates,) = policy.sample([seen], [1], 4)
    chunks = torch.from_numpy((candidates.actions - n.action_mean) / n.action_std)
    pictures = np.stack([seen.images[camera] for camera in policy.spec.cameras])
    state = torch.from_numpy((seen.state - n.state_mean) / n.state_std)[None]
    words = torch.from_numpy(pad([Tokenizer(bundle.config.buckets, bundle.config.max_words)(seen.instruction)]))
    with torch.inference_mode():
        caches, mask, _ = network.prefix(mini_vla.scale_images(torch.from_numpy(pictures)[None]), state, words)
        velocity = network.velocity(0.4 * chunks[None], torch.full((1, 4), 0.4), caches, mask)[0]
    np.testing.assert_allclose(candidates.features["residual"], velocity - chunks, atol=0.06)


def test_same_call_same_bits_in_any_company(policy: MiniVla) -> None:
    alone = policy.sample([observation(3)], [7], 8)[0]
    together = policy.sample([observation(1), observation(3)], [7, 7], 8)[1]
    np.testing.assert_array_equal(alone.actions, together.actions)
    np.testing.assert_array_equal(alone.features["residual"], together.features["residual"])


def test_same_bits_whatever_number_of_threads_it_is_loaded_with() -> None:
    """Sums at loading are as deep as the sizes of the shipped policy: only there do two threads share one out."""
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            policy = mini_vla.load()
            pictures = {name: np.zeros((*size, 3), np.uint8) for name, size in policy.spec.cameras.items()}
            seen = Observation(pictures, np.zeros(policy.spec.state.size, np.float32), "lift the tray", 0.0)
            found.append(policy.sample([seen], [7], 8)[0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].actions, found[1].actions)


def test_candidates_are_nested(policy: MiniVla) -> None:
    eight, many = (policy.sample([observation()], [7], n)[0] for n in (8, 20))
    np.testing.assert_array_equal(eight.actions, many.actions[:8])
    three = policy.sample([observation()], [7], 3)[0]
    np.testing.assert_allclose(three.actions, eight.actions[:3], atol=0.05)
    other = policy.sample([observation()], [8], 8)[0]
    assert np.abs(other.actions - eight.actions).max() > 0.1


@pytest.mark.parametrize("part", ["image", "state", "instruction", "word order"])
def test_every_input_matters(policy: MiniVla, part: str) -> None:
    seen = observation()
    other = {
        "image": dataclasses.replace(seen, images={**seen.images, "right_wrist": seen.images["head"]}),
        "state": dataclasses.replace(seen, state=seen.state + 1),
        "instruction": dataclasses.replace(seen, instruction="lift the tray"),
        "word order": dataclasses.replace(seen, instruction="put the blue block on the red one"),
    }[part]
    first, second = policy.sample([seen, other], [0, 0], 2)
    assert np.abs(first.actions - second.actions).max() > 1e-4


def test_a_chunk_sees_the_prefix_and_itself() -> None:
    mask = chunk_mask(None, n_prefix=4, n_chunks=3, horizon=2)
    assert mask is not None
    assert mask.shape == (1, 1, 6, 10)
    assert mask[..., :4].all()
    assert torch.equal(mask[0, 0, :, 4:].int(), torch.kron(torch.eye(3), torch.ones(2, 2)).int())
    assert chunk_mask(None, 4, 1, 2) is None


def test_saved_is_loaded(tmp_path: Path, policy: MiniVla) -> None:
    path = tmp_path / "new" / mini_vla.FILE_NAME
    mini_vla.save(path, make_bundle())
    for given in (path, path.parent):
        again = mini_vla.load(given)
        assert again.spec.fingerprint == policy.spec.fingerprint
        assert again.spec.action == ACTION
        assert again.spec.cameras == CAMERAS
        np.testing.assert_array_equal(
            again.sample([observation()], [0], 2)[0].actions, policy.sample([observation()], [0], 2)[0].actions
        )
    assert MiniVla(make_bundle(seed=1)).spec.fingerprint != policy.spec.fingerprint
    assert [p.name for p in path.parent.iterdir()] == [mini_vla.FILE_NAME]


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    mini_vla.save(good, make_bundle())
    data = good.read_bytes()
    changed = bytearray(data)
    changed[-1] ^= 1
    files = {"cut": data[:-100], "text": b"no weights", "changed": bytes(changed)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    reasons = {"cut": "damaged", "text": "damaged", "changed": "fingerprint", "foreign": "not a mini_vla policy"}
    for name, said in reasons.items():
        with pytest.raises(ArtifactError, match=said) as caught:
            mini_vla.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="robotest train"):
        mini_vla.load(tmp_path / "none")
    with pytest.raises(ArtifactError, match="cannot write"):
        mini_vla.save(good / "below", make_bundle())


def test_weights_that_are_not_finite_are_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / mini_vla.FILE_NAME
    good = make_bundle()
    spread = good.normalisation.action_std.copy()
    spread[0, 0] = np.inf
    name = "expert.embed.weight"
    numbers = dataclasses.replace(good.normalisation, action_std=spread)
    for broken, what in (
        (dataclasses.replace(good, weights={**good.weights, name: good.weights[name] * torch.nan}), f"network.{name}"),
        (dataclasses.replace(good, normalisation=numbers), "action_std"),
    ):
        with pytest.raises(ArtifactError, match=f"is not written: .*{what} is NaN"):
            mini_vla.save(path, broken)
        assert not list(tmp_path.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(mini_vla, "_not_finite", lambda _: None)
            mini_vla.save(path, broken)
        with pytest.raises(ArtifactError, match=f"cannot act: .*{what} is NaN"):
            mini_vla.load(path)
        path.unlink()


def test_notes_are_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    mini_vla.save(tmp_path / "a", make_bundle(), {"data": "demos.h5"})
    assert mini_vla.read_notes(tmp_path / "a")["data"] == "demos.h5"
    assert mini_vla.load(tmp_path / "a").spec.fingerprint == make_bundle().fingerprint()


def test_weights_of_another_network(tmp_path: Path) -> None:
    bundle = dataclasses.replace(make_bundle(), weights=make_bundle(layers=2).weights)
    mini_vla.save(tmp_path / mini_vla.FILE_NAME, bundle)
    with pytest.raises(ArtifactError, match="another network"):
        mini_vla.load(tmp_path)


def test_wrong_sizes_are_named(policy: MiniVla) -> None:
    seen = observation()
    small = {**seen.images, "head": seen.images["head"][:16]}
    without = {k: v for k, v in seen.images.items() if k != "head"}
    for bad, said in [
        (dataclasses.replace(seen, images=small), "image size"),
        (dataclasses.replace(seen, images=without), "needs camera 'head'"),
        (dataclasses.replace(seen, state=seen.state[:4]), "state of 5"),
    ]:
        with pytest.raises(SpecMismatchError, match=said):
            policy.sample([bad], [0], 1)


@pytest.mark.slow
def test_eight_candidates_cost_less_than_twice_one() -> None:
    policy = MiniVla(make_bundle())

    def cost(n: int) -> float:
        started = time.process_time()
        policy.sample([observation()], [0], n)
        return time.process_time() - started

    pairs = [(cost(1), cost(8)) for _ in range(30)]
    one, eight = np.median(pairs[5:], axis=0)
    assert eight < 2 * one
