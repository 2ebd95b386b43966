"""Makes a safetensors file for another program: our parameters by its names and in its shapes."""

from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from convnext_imagenet.model.convnext import ConvNeXtConfig
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import export_arrays, scheme_named


def renamed_payload(arrays: Mapping[str, np.ndarray], config: ConvNeXtConfig, names: str) -> bytes:
    """Return a safetensors file with these parameters, float32, by the names of a scheme ("facebook", "timm").

    Its metadata is {"format": "pt"}, which PyTorch's readers look for. Raises ModelError for an unknown scheme, and for
    a head that other programs do not have.
    """
    if config.head_projection:
        raise ModelError(
            f"a head that compares embeddings has no names in {scheme_named(names).title} network; use --format onnx "
            f"or mindir"
        )
    theirs = export_arrays(arrays, config, scheme_named(names))
    packed = {name: np.ascontiguousarray(theirs[name]) for name in sorted(theirs)}
    return safetensors.numpy.save(packed, metadata={"format": "pt"})
