"""The Markdown beside an export says what a user needs."""

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.exchange.model_card_md import ExportFacts, card_markdown
from convnext_imagenet.model.transform import EvalTransform


def _card(config, **transform):
    classes = tuple((f"n{index:08d}", f"a | {index}") for index in range(config.num_classes))
    provenance = {"config": {"train": {"epochs": 7}}, "start": None}
    return ModelCard(config, classes, EvalTransform(**transform), provenance)


def _facts(**changes):
    facts = {
        "title": "ONNX",
        "files": [("m.onnx.data", 5_000_000_000, "d" * 64), ("m.onnx", 1234, "f" * 64)],
        "checkpoint": ("best.safetensors", "c" * 64),
        "classes_sha256": "e" * 64,
        "interface": [("input", "`pixels`")],
        "example": "print(1)",
        "training": {"epoch": 3, "top-1 on val": 0.5, "step": None},
    }
    return ExportFacts(**(facts | changes))


def test_a_card_tells_files_checkpoint_network_classes_and_training(config):
    lines = card_markdown(_card(config), _facts()).splitlines()
    assert lines[0] == "# small, ONNX"
    for line in (
        f"| file | `m.onnx.data`, 5,000,000,000 bytes, SHA-256 `{'d' * 64}` |",
        f"| file | `m.onnx`, 1,234 bytes, SHA-256 `{'f' * 64}` |",
        f"| made from | `best.safetensors`, SHA-256 `{'c' * 64}` |",
        f"| network | ConvNeXt {'V2' if config.grn else 'V1'}, depths (1, 2, 1, 1), dims (8, 16, 24, 32) |",
        f"| classes | 5, SHA-256 of their list `{'e' * 64}` |",
        "| input | `pixels` |",
        "From its training run: epoch 3, top-1 on val 0.5. The checkpoint states:",
        "config.train.epochs = 7",
        "start = null",
        "| 4 | n00000004 | a \\| 4 |",
        "print(1)",
    ):
        assert line in lines
    assert "accuracy of this checkpoint is not known" in card_markdown(_card(config), _facts(training={}))


def test_the_transform_is_spelled_out(config):
    crop = card_markdown(_card(config, size_px=288, crop_pct=0.95, interpolation="bilinear"), _facts())
    assert "the short side to 303 pixels (288 / 0.95, rounded down)" in crop
    assert "antialiased bilinear filter" in crop
    assert "Crop the central 288 x 288 pixels." in crop
    assert "mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225" in crop
    squash = card_markdown(_card(config, size_px=384, mode="squash"), _facts())
    assert "Resize the whole image to 384 x 384 pixels" in squash
    assert "Crop the central" not in squash
