"""Python examples for model cards: they prepare an image and run the exported file, without this program."""

from convnext_imagenet.model.convnext import ConvNeXtConfig
from convnext_imagenet.model.exchange.naming import scheme_named
from convnext_imagenet.model.transform import EvalTransform


def onnx_example(file: str, transform: EvalTransform, preprocessing: bool, has_head: bool = True) -> str:
    """Return code that classifies an image with onnxruntime, or prints its features without a head."""
    if not has_head:
        return _onnx_features_example(file, transform, preprocessing)
    given, values = ("pixels[None]", "") if preprocessing else ("values", _normalisation(transform))
    return f"""import json

import numpy as np
import onnxruntime
from PIL import Image

{_preparation(transform)}
{values}
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
logits = session.run(["logits"], {{session.get_inputs()[0].name: {given}}})[0][0]
{_ranking("index, classes[index]")}"""


def _onnx_features_example(file: str, transform: EvalTransform, preprocessing: bool) -> str:
    given, values = ("pixels[None]", "") if preprocessing else ("values", _normalisation(transform))
    return f"""import numpy as np
import onnxruntime
from PIL import Image

{_preparation(transform)}
{values}
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
features = session.run(["features"], {{session.get_inputs()[0].name: {given}}})[0][0]
print(features)"""


def mindir_example(file: str, transform: EvalTransform, has_head: bool = True) -> str:
    """Return code that classifies an image with MindSpore, or prints its features without a head."""
    ending = _ranking("index") if has_head else "print(logits)  # its features"
    return f"""import mindspore
import numpy as np
from mindspore import nn
from PIL import Image

{_preparation(transform)}

mindspore.set_context(mode=mindspore.GRAPH_MODE)
network = nn.GraphCell(mindspore.load("{file}"))
logits = network(mindspore.Tensor(pixels[None])).asnumpy()[0]
{ending}"""


def timm_example(file: str, config: ConvNeXtConfig, transform: EvalTransform, names: str) -> str:
    """Return code that classifies an image with timm, which also reads Facebook's names."""
    is_conv = config.variant in scheme_named("timm").conv_mlp
    scale = "None" if config.grn else f"{config.layer_scale_init:g}"
    weights = f'load_file("{file}")'
    functions = (
        ""
        if config.has_usual_functions
        else f"\n    norm_eps={config.norm_epsilon:g}, act_layer={config.activation!r},"
    )
    last = (
        ""
        if config.head_norm_epsilon == config.norm_epsilon
        else f"\nnetwork.head.norm.eps = {config.head_norm_epsilon:g}"
    )
    ending = _ranking("index") if config.num_classes else "print(logits)  # its features"
    if names != "timm":
        weights = f"checkpoint_filter_fn({weights}, network)"
    return f"""import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn

{_preparation(transform)}
{_normalisation(transform)}
network = ConvNeXt(
    num_classes={config.num_classes}, depths={config.depths}, dims={config.dims},
    use_grn={config.grn}, ls_init_value={scale}, conv_mlp={is_conv},{functions}
).eval(){last}
network.load_state_dict({weights})
with torch.inference_mode():
    logits = network(torch.from_numpy(values)).numpy()[0]
{ending}"""


def _preparation(transform: EvalTransform) -> str:
    """Return code that reads an image into `pixels`, uint8 (S, S, 3)."""
    side, resample = transform.size_px, f"Image.Resampling.{transform.interpolation.upper()}"
    read = """image = Image.open("picture.jpg")
if image.mode.startswith("I"):  # 16 bits: keep the upper 8, which convert would clip
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
image = image.convert("RGB")"""
    if transform.mode == "squash":
        return f"{read}\npixels = np.asarray(image.resize(({side}, {side}), {resample}))"
    return f"""{read}
width, height = ({transform.resize_px} * length // min(image.size) for length in image.size)
left, top = round((width - {side}) / 2), round((height - {side}) / 2)
image = image.resize((width, height), {resample})
pixels = np.asarray(image.crop((left, top, left + {side}, top + {side})))"""


def _normalisation(transform: EvalTransform) -> str:
    return f"""values = (pixels / 255 - {list(transform.mean)}) / {list(transform.std)}
values = np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)
"""


def _ranking(printed: str) -> str:
    return f"""exponentials = np.exp(logits - logits.max())
probabilities = exponentials / exponentials.sum()
for index in probabilities.argsort()[::-1][:5]:
    print({printed}, f"{{probabilities[index]:.4f}}")"""
