"""Write tests/model/exchange/golden: tiny networks of timm and transformers in their own files, and their logits.

    python tests/parity/make_golden.py

in an environment with the extra `parity`. Weights are half precision there, and the logits are those of just these
values, computed in float32 over two images of random squares under noise.
"""

import json
from pathlib import Path

import numpy as np
import torch
from programs import facebook_names, tiny_timm_model, transformers_model
from safetensors.torch import save_file
from timm.models.convnext import checkpoint_filter_fn

FOLDER = Path(__file__).resolve().parent.parent / "model" / "exchange" / "golden"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32), "classes": 7}


def main() -> None:
    """Make every file anew."""
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 192, (2, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    pixels = squares + rng.integers(0, 64, squares.shape, dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    models = {
        "timm-v1": (tiny_timm_model(1, conv_mlp=True), torch.float16),
        "timm-v2": (tiny_timm_model(2, use_grn=True, ls_init_value=None), torch.bfloat16),
        "facebook-v1": (tiny_timm_model(3), torch.float16),
        "facebook-v2": (tiny_timm_model(4, use_grn=True, ls_init_value=None), torch.float16),
        "transformers-v1": (transformers_model(5, False, **TINY), torch.float16),
        "transformers-v2": (transformers_model(6, True, **TINY), torch.bfloat16),
    }
    logits = {}
    for name, (model, dtype) in models.items():
        state = {key: value.to(dtype) for key, value in model.state_dict().items()}
        model.load_state_dict(state)
        if name.startswith("facebook"):
            theirs = facebook_names(state)
            model.load_state_dict(checkpoint_filter_fn(dict(theirs), model), strict=True)
            state = theirs
        save_file({key: value.contiguous() for key, value in state.items()}, FOLDER / f"{name}.safetensors")
        with torch.no_grad():
            answer = model(images)
        logits[name] = getattr(answer, "logits", answer).tolist()
    (FOLDER / "logits.json").write_text(json.dumps(logits, indent=1) + "\n")


if __name__ == "__main__":
    main()
