"""A tiny random pi0 for the point suite, saved as a checkpoint: weights, tokenizer and interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robotest import interface
from robotest.interface import CameraSlot, Interface, Normalisation
from tests.doubles.fakes import ACTION, HORIZON, STATE

WORDS = ("<pad>", "<eos>", "<bos>", "<unk>", "reach", "the", "target", "go", "there", "pick", "up", "\n")
IMAGE_TOKEN = 64
N_STEPS = 4
WIDTH = 8
"""Of actions and states in the model."""


def meant(**changes: Any) -> Interface:
    values: dict[str, Any] = {
        "kind": "pi0",
        "name": "tiny",
        "horizon": HORIZON,
        "control_hz": 10.0,
        "prompt": "{instruction}\n",
        "cameras": (CameraSlot("top", "base_0_rgb", 16, 16),),
        "action": ACTION,
        "state": STATE,
        "action_normalisation": Normalisation("mean_std", mean=(0.0, 0.1, 0.5), std=(0.2, 0.3, 0.1), epsilon=1e-6),
        "state_normalisation": Normalisation("mean_std", mean=(0.0,) * STATE.size, std=(0.5,) * STATE.size),
    }
    return Interface(**{**values, **changes})


def save(folder: Path, wanted: Interface, *, horizon: int = HORIZON) -> Path:
    """Write a checkpoint of 0.1 million parameters. New weights hardly move the noise, so they are made larger."""
    import torch
    from transformers import PI0Config, PI0ForConditionalGeneration

    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "image_token_id": IMAGE_TOKEN,
            "projection_dim": 64,
            "text_config": {
                "model_type": "gemma",
                "hidden_size": 64,
                "intermediate_size": 128,
                "vocab_size": 65,
                **layers,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "patch_size": 14,
                "image_size": 28,
                "vision_use_head": False,
                **vision,
            },
        },
        dit_config={"model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, **layers},
        chunk_size=horizon,
        max_state_dim=WIDTH,
        max_action_dim=WIDTH,
        num_inference_steps=N_STEPS,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = PI0ForConditionalGeneration(config)
        for weight in model.parameters():
            weight.mul_(8)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    wanted.write(folder / interface.FILE)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words, which takes a line break for a word too."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex("\n"), "isolated")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
