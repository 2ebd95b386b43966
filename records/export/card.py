"""What an export says about itself: a data card that Hugging Face's hub reads, and Croissant metadata. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.export.formats import label_names
from convnext_imagenet.records.manifest import Manifest

_SPLIT_NAMES = {"val": "validation"}  # as Hugging Face calls it
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "equivalentProperty": "cr:equivalentProperty",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_CITATION = (
    "@article{ILSVRC15, author={Olga Russakovsky and others}, "
    "title={{ImageNet Large Scale Visual Recognition Challenge}}, "
    "journal={International Journal of Computer Vision}, year={2015}, volume={115}, number={3}, pages={211-252}}"
)
_TERMS = "https://image-net.org/download.php"
_WNID = re.compile(r"n[0-9]{8}")
_ABOUT = {
    "parquet": "Parquet: `image` (bytes and path), `label` (class index), `key`.",
    "webdataset": "Tars for webdataset: `KEY.jpg` or `KEY.png`, and `KEY.cls` with the class index. In keys, `%2E` "
    "stands for a dot and `%25` for a percent sign.",
    "folder": "One file for each image, in the folder of its class. `convnext-ingest build` makes the same shards of "
    "it again, if no image was in quarantine.",
}


def card_text(manifest: Manifest, format_name: str) -> str:
    """Return README.md: front matter with the files of each split, then what the records are, from the manifest."""
    lines = ["---", "task_categories:", "- image-classification"]
    if format_name == "parquet":
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for name in manifest.splits:
            lines += [f"  - split: {_SPLIT_NAMES.get(name, name)}", f"    path: data/{name}-*.parquet"]
    lines += ["---", "", "# Images for classification", "", _ABOUT[format_name], ""]
    lines += ["| split | rows | in quarantine, not stored |", "|---|---|---|"]
    lines += [f"| {name} | {split.rows:,} | {split.quarantined:,} |" for name, split in manifest.splits.items()]
    lines += [
        "",
        f"{plural(len(manifest.classes), 'class')}; labels: {_labels_in_words(manifest)}. Images are the files that "
        f"were ingested, byte by byte, unless they were encoded again: "
        f"{sum(manifest.source.get('reencoded', {}).values()):,} were.",
        "",
        f"Made from records of plan `{manifest.plan_id}`."
        + (f" Images of ImageNet come under its own terms: {_TERMS}" if _is_imagenet(manifest) else ""),
    ]
    return "\n".join(lines) + "\n"


def _labels_in_words(manifest: Manifest) -> str:
    """Return where the labels come from, and whether they were checked."""
    if manifest.verified_against:
        return f"verified against {manifest.verified_against}"
    if not manifest.source.get("labels"):
        return "the names of folders, not verified"
    kinds = ", ".join(dict.fromkeys(manifest.source["layout"].values()))
    return f"{manifest.source['labels']} by the source ({kinds}), not verified"


def croissant_text(manifest: Manifest, files: Sequence[Mapping[str, Any]]) -> str:
    """Return Croissant 1.1 metadata of a Parquet export; `files` have name, split, bytes and sha256.

    The rows of each split are a record set over the set of its files; each file is named with its digest, too.
    Citation, licence and address are ImageNet's; those of other images are left out, and their owner has to add them.
    """
    origin = {"citeAs": _CITATION, "license": _TERMS, "url": "https://image-net.org"} if _is_imagenet(manifest) else {}
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": "convnext_imagenet_records",
        "description": f"{sum(split.rows for split in manifest.splits.values()):,} images of "
        f"{plural(len(manifest.classes), 'class')}, with verified digests.",
        **origin,
        "version": "1.0.0",
        "distribution": [*map(_file_object, files), *map(_file_set, manifest.splits)],
        "recordSet": [_labels(manifest), *map(_record_set, manifest.splits)],
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _is_imagenet(manifest: Manifest) -> bool:
    """Return whether the classes are ImageNet's: by wnids. Images of one's own have other names."""
    return all(_WNID.fullmatch(entry.wnid) for entry in manifest.classes)


def _file_object(file: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file["name"],
        "name": file["name"],
        "contentUrl": file["name"],
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file["sha256"],
    }


def _labels(manifest: Manifest) -> dict[str, Any]:
    names = label_names(manifest.classes)
    return {
        "@type": "cr:RecordSet",
        "@id": "labels",
        "name": "labels",
        "dataType": "sc:Enumeration",
        "key": {"@id": "labels/index"},
        "field": [
            {"@type": "cr:Field", "@id": "labels/index", "name": "labels/index", "dataType": "sc:Integer"},
            {"@type": "cr:Field", "@id": "labels/name", "name": "labels/name", "dataType": "sc:Text"},
        ],
        "data": [{"labels/index": index, "labels/name": name} for index, name in enumerate(names)],
    }


def _file_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{split}-*.parquet",
    }


def _record_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "field": [
            _field(split, "image", "sc:ImageObject", {"transform": {"jsonPath": "bytes"}}),
            _field(split, "label", "sc:Integer", {}) | {"references": {"field": {"@id": "labels/index"}}},
            _field(split, "key", "sc:Text", {}),
        ],
    }


def _field(split: str, column: str, data_type: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{column}",
        "name": f"{split}/{column}",
        "dataType": data_type,
        "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}, **source},
    }
