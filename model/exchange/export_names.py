"""Makes a safetensors file for another program: our parameters by its names and in its shapes."""

import json
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from convnext_imagenet.model.card import ModelCard, card_to_json, exported_card
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import export_arrays, scheme_named

EXPORTED_CARD = "convnext_imagenet.exported_card"  # the entry of the metadata from which an import takes the card


def renamed_payload(arrays: Mapping[str, np.ndarray], card: ModelCard, names: str) -> bytes:
    """Return a safetensors file with these parameters, float32, by the names of a scheme ("facebook", "timm").

    Its metadata holds "format": "pt", which PyTorch's readers look for, and what the card says of functions, classes,
    transform and licences. Raises ModelError for an unknown scheme, and for a head that other programs do not have.
    """
    if card.config.head_projection:
        raise ModelError(
            f"a head that compares embeddings has no names in {scheme_named(names).title} network; use --format onnx "
            f"or mindir"
        )
    theirs = export_arrays(arrays, card.config, scheme_named(names))
    packed = {name: np.ascontiguousarray(theirs[name]) for name in sorted(theirs)}
    return _with_metadata(
        safetensors.numpy.save(packed), {"format": "pt", EXPORTED_CARD: card_to_json(exported_card(card))}
    )


def _with_metadata(payload: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with these entries, in their order: the library's order changes from run to run."""
    end = 8 + int.from_bytes(payload[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(payload[8:end])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # values begin at a multiple of eight, as the library aligns them
    return len(header).to_bytes(8, "little") + header + payload[end:]
