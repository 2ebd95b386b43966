"""The licence of another program's weights, as far as the file, what lies beside it, or its family tells."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_README_BYTES = 65_536
NOT_STATED = "not stated"
# What to keep when weights, or what is made of them, are passed on: in short; the licence itself decides.
_WORDS = {
    "cc-by-nc-4.0": "Name the authors; no commercial use: https://creativecommons.org/licenses/by-nc/4.0/",
    "dinov3-license": "The weights, and what is made of them, may be passed on only under the DINOv3 License, with a "
    "copy of it; publications acknowledge DINOv3: https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    "fair-noncommercial-research-license": "Noncommercial research only; pass the licence on with every copy",
    "apache-2.0": "Keep the licence and its notices: https://www.apache.org/licenses/LICENSE-2.0",
    "mit": "Keep the copyright notice and the licence",
}  # fmt: skip
_TITLES = {
    r"DINOv3 License": "dinov3-license",
    r"Attribution-NonCommercial 4\.0": "cc-by-nc-4.0",
    r"FAIR Noncommercial Research": "fair-noncommercial-research-license",
    r"Apache License": "apache-2.0",
    r"MIT License": "mit",
}


@dataclass(frozen=True)
class Licence:
    """A licence's name in lower case, or "not stated"; `origin` says where it is stated, `words` what it asks."""

    name: str
    origin: str
    words: str = ""


def find_licence(path: Path, scheme: str, settings: Mapping[str, Any], grn: bool = False) -> Licence:
    """Return the licence of the weights in `path`.

    It is stated by the `config.json` beside it (`settings`), by a model card README.md or by a file LICENSE; else the
    file's family has one: the weights of DINOv3, of EUPE, and Facebook's of ConvNeXt V2.
    """
    for found, origin in (
        (_from_settings(settings), "config.json beside it"),
        (_from_readme(path.parent / "README.md"), "README.md beside it"),
        *((_from_text(file), f"{file.name} beside it") for file in sorted(path.parent.glob("LICENSE*"))),
        (_from_family(path.name.lower(), scheme, grn), "the licence of its family; nothing beside it states one"),
    ):
        if found:
            return Licence(found, origin, _WORDS.get(found, ""))
    return Licence(NOT_STATED, "neither the file nor what lies beside it tells; ask where you got it")


def _from_settings(settings: Mapping[str, Any]) -> str | None:
    pretrained = settings.get("pretrained_cfg")
    stated = settings.get("license") or (pretrained.get("license") if isinstance(pretrained, Mapping) else None)
    return str(stated).strip().lower() if stated else None


def _from_readme(path: Path) -> str | None:
    """Return `license_name`, else `license`, of the front matter of a model card."""
    front = re.match(r"---\s*\n(.*?)\n---", _text(path), re.DOTALL)
    stated = dict(re.findall(r"(?m)^(license|license_name):[ \t]*(\S+)[ \t]*$", front[1] if front else ""))
    name = stated.get("license_name") or stated.get("license")
    return name.strip("\"'").lower() if name else None


def _from_text(path: Path) -> str | None:
    text = " ".join(_text(path).split())
    return next((name for title, name in _TITLES.items() if re.search(title, text, re.IGNORECASE)), None)


def _from_family(name: str, scheme: str, grn: bool) -> str | None:
    if "dinov3" in name or scheme == "dinov3":
        return "dinov3-license"
    if "eupe" in name:
        return "fair-noncommercial-research-license"
    return "cc-by-nc-4.0" if "convnextv2" in name and grn else None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_README_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
