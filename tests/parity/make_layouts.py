"""Write tests/model/exchange/golden/layouts.json.xz: names, shapes and configurations of public ConvNeXts.

    python tests/parity/make_layouts.py

in an environment with the extra `parity`. Every entry is made by the library itself, without values: all names of
timm's list of pre-trained ConvNeXts, transformers' three kinds, and the layouts of files that timm converts (Facebook,
DINOv3, EUPE, OpenCLIP).
"""

import json
import lzma
import tempfile
from pathlib import Path

import torch
from programs import facebook_names, timm, transformers
from timm.models._hub import save_config_for_hf

FILE = Path(__file__).resolve().parent.parent / "model" / "exchange" / "golden" / "layouts.json.xz"


def main() -> None:
    """Make the file anew."""
    entries = {}
    with torch.device("meta"):
        for name in timm.list_models("*convnext*", pretrained=True):
            model = timm.create_model(name)
            shapes = model.state_dict()
            if name.endswith(".fcmae"):  # the published files lack it (timm's `_create_convnext`)
                shapes = {key: value for key, value in shapes.items() if not key.startswith("head.")}
            entries[f"timm {name}"] = entry(shapes, timm_config(model))
        entries |= dict(transformers_entries())
        entries |= dict(other_entries())
    text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    FILE.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32))


def entry(state, config=None) -> dict:
    """What the test reads: shapes by name, and config.json."""
    return {"shapes": {name: list(value.shape) for name, value in state.items()}, "config": config}


def timm_config(model) -> dict:
    """The config.json that timm saves beside the model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        save_config_for_hf(model, path)
        return json.loads(path.read_text())


def transformers_entries():
    """ConvNeXt V1 and V2 with and without a classifier, and DINOv3's."""
    made = (
        (transformers.ConvNextForImageClassification, transformers.ConvNextConfig),
        (transformers.ConvNextV2ForImageClassification, transformers.ConvNextV2Config),
        (transformers.ConvNextModel, transformers.ConvNextConfig),
        (transformers.DINOv3ConvNextModel, transformers.DINOv3ConvNextConfig),
    )
    for model, config in made:
        labels = {"num_labels": 1000} if "Classification" in model.__name__ else {}
        network = model(config(**labels))
        settings = json.loads(network.config.to_json_string(use_diff=False))
        yield f"transformers {model.__name__}", entry(network.state_dict(), settings)


def other_entries():
    """Facebook's layout, DINOv3's and EUPE's .pth, and OpenCLIP's whole network."""
    for name in ("convnext_tiny", "convnext_base", "convnextv2_tiny"):
        yield f"facebook {name}", entry(facebook_names(timm.create_model(name).state_dict()))
    bare = facebook_names(timm.create_model("convnext_tiny", num_classes=0).state_dict())
    norms = {f"norms.3.{leaf}": bare[f"norm.{leaf}"] for leaf in ("weight", "bias")}
    yield "dinov3 dinov3_convnext_tiny_pretrain_lvd1689m.pth", entry(bare | norms)
    yield "eupe EUPE-ConvNeXt-T.pt", entry(bare | norms | {"projectors.0.weight": torch.empty(8, 768)})
    for name, embedding in (("convnext_base", 640), ("convnext_xxlarge", 1024)):
        trunk = timm.create_model(name, num_classes=0).state_dict()
        state = {f"visual.trunk.{key}": value for key, value in trunk.items()}
        state |= {"visual.head.proj.weight": torch.empty(embedding, trunk["head.norm.weight"].numel())}
        yield (
            f"openclip {name}",
            entry(state | {"logit_scale": torch.empty(()), "positional_embedding": torch.empty(77, 8)}),
        )


if __name__ == "__main__":
    main()
