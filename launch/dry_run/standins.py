"""Decides which functions of CANN the installed MindSpore wants, and writes C++ that stands in for them.

MindSpore's wheel holds its whole Ascend back end with a simulated device; it fails to load only because CANN's
libraries are absent. In a simulation it calls few of their functions and needs nothing from them, so each stand-in only
returns zero or an empty object (DECISIONS, 2026-11-29). This file compiles nothing.
"""

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.launch.dry_run.elf import Library, find_words, read_library
from convnext_imagenet.launch.errors import LaunchError

PLUGIN = "libmindspore_ascend.so.2"
# What MindSpore loads by name: the plugin, its GE back end and its collectives.
_ROOTS = (PLUGIN, "libmindspore_ge_backend.so", "libhccl_plugin.so")
# Libraries that MindSpore opens at run time, beside those that its own are linked with.
_OPENED = ("ascendcl", "acl_op_compiler", "msprofiler", "acl_tdt_channel", "acl_tdt_queue", "opapi")
# Functions that it looks up by name at run time; each aclnn operator has a second function, for its workspace.
_LOOKED_UP = rb"(?:acl|rt|hal|Hccl)[A-Za-z0-9]+"
_WORKSPACE = "GetWorkspaceSize"
_LOOKED_UP_WITHOUT_PREFIX = ("InitHugeMemThreadLocal", "UnInitHugeMemThreadLocal", "ReleaseHugeMem")
# Only kernels for this chip are chosen: Atlas A2. MindSpore compares the name that CANN returns.
CHIP = "Ascend910B1"

# Functions of namespace ge that return an object, and how many zero words make an empty one: a std::vector or a class
# with a virtual table has three, a std::shared_ptr two.
_RETURNED_WORDS = {
    "CreateOperator": 3,
    "GetCompiledGraphSummary": 2,
    "GetDims": 3,
    "GetDirectNode": 3,
    "GetInControlNodes": 3,
    "GetInDataNodesAndPortIndexs": 3,
    "GetOriginShape": 2,
    "GetOutControlNodes": 3,
    "GetOutDataNodesAndPortIndexs": 3,
    "GetOutputDesc": 2,
    "GetShape": 2,
    "GetTensorDesc": 2,
}
_OWN_WORDS = {"Operator": 3}  # the size of a class in words where it is not two
_CONSTRUCTOR = "(constructor)"
_EMPTY_CLASSES = re.compile(r"Register$")  # OperatorCreatorRegister and its like have no members: nothing to clear

# Whole bodies for what MindSpore reads from. A std::map's layout depends on neither its values nor the string ABI.
_SPECIAL = {
    "_ZN2ge13StatusFactory8InstanceEv": (
        "void* {}() {{ static struct {{ std::map<unsigned, void*> texts; char spare[256]; }} factory; "
        "return &factory; }}"
    ),
    "_ZNK2ge12AscendString9GetStringEv": 'const char* {}() {{ return ""; }}',
    "aclrtGetSocName": f'const char* {{}}() {{{{ return "{CHIP}"; }}}}',
}
_HEAD = """\
#include <map>
struct Two { void *a, *b; ~Two() {} };  // not trivial, so that every ABI returns it through a hidden pointer
struct Three { void *a, *b, *c; ~Three() {} };
extern "C" {
long convnext_zero() { return 0; }
"""


@dataclass(frozen=True)
class Wanted:
    """What MindSpore wants of CANN: names of libraries, functions that it is linked with, and that it looks up."""

    libraries: tuple[str, ...]
    linked: tuple[str, ...]
    looked_up: tuple[str, ...]


def find_wanted(lib: Path) -> Wanted:
    """Return what the MindSpore whose libraries lie in `lib` wants of CANN.

    Raises LaunchError when `lib` holds no Ascend plugin, lacks one of the libraries that this program knows, or wants
    data instead of a function.
    """
    files = {path.name: path for path in sorted(lib.rglob("*.so*"))}
    libraries = _read_all(files, lib)
    needed = {name for library in libraries.values() for name in library.needed} - files.keys()
    system = {name: handle for name in needed if (handle := _load(name))}
    defined = frozenset[str]().union(*(library.defined for library in libraries.values()))
    undefined = frozenset[str]().union(*(library.undefined for library in libraries.values()))
    handles = (ctypes.pythonapi, *system.values())
    linked = sorted(name for name in undefined - defined if not any(hasattr(handle, name) for handle in handles))
    if data := [name for name in linked if _is_data(name)]:
        raise LaunchError(
            f"{lib}: this MindSpore wants data of CANN ({', '.join(data[:3])}), and stand-ins are functions; "
            f"install CANN, or the version of MindSpore that this program was tested with"
        )
    words = {word for name in libraries if "ascend" in name for word in find_words(files[name], _LOOKED_UP)}
    words |= {word + _WORKSPACE for word in words if word.startswith("aclnn")} | {*_LOOKED_UP_WITHOUT_PREFIX}
    opened = {f"lib{name}.so" for name in _OPENED}
    return Wanted(tuple(sorted(needed - system.keys() | opened)), tuple(linked), tuple(sorted(words - {*linked})))


def standins_source(wanted: Wanted) -> str:
    """Return C++ that defines all functions of `wanted`, and nothing else that other libraries see."""
    lines = [_definition(name) for name in wanted.linked]
    lines += [
        _SPECIAL[name].format(name) if name in _SPECIAL else f'long {name}() __attribute__((alias("convnext_zero")));'
        for name in wanted.looked_up
    ]
    return _HEAD + "\n".join(lines) + "\n}\n"


def _read_all(files: Mapping[str, Path], lib: Path) -> dict[str, Library]:
    """Return the roots and all libraries of the wheel that they need, by name."""
    if PLUGIN not in files:
        raise LaunchError(f"{lib}: this MindSpore has no Ascend plugin ({PLUGIN}); install one that has it")
    if absent := sorted({*_ROOTS} - files.keys()):
        raise LaunchError(f"{lib}: no {', '.join(absent)}, so this is another MindSpore than the one that was tested")
    found: dict[str, Library] = {}
    queue = [*_ROOTS]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            found[name] = read_library(files[name])
        except ValueError as error:
            raise LaunchError(f"{error}; install MindSpore again") from None
        queue += [other for other in found[name].needed if other in files]
    return found


def _load(name: str) -> ctypes.CDLL | None:
    """Return a library of the system, or None if the loader does not find it."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _is_data(symbol: str) -> bool:
    """Return whether a C++ symbol names data: type information, a guard, or a variable, which has no parameters."""
    return symbol.startswith(("_ZT", "_ZGV")) or _scoped_name(symbol)[1] == "E"


def _definition(symbol: str) -> str:
    """Return the C++ definition of a stand-in for `symbol`."""
    if symbol in _SPECIAL:
        return _SPECIAL[symbol].format(symbol)
    *scopes, name = _scoped_name(symbol)[0]
    if name == _CONSTRUCTOR and not _EMPTY_CLASSES.search(scopes[-1]):
        cleared = " ".join(f"self[{word}] = 0;" for word in range(_OWN_WORDS.get(scopes[-1], 2)))
        return f"void* {symbol}(void** self) {{ {cleared} return self; }}"
    if words := _RETURNED_WORDS.get(name, 0) if scopes[:1] == ["ge"] else 0:
        return f"{'Three' if words == 3 else 'Two'} {symbol}() {{ return {{}}; }}"
    if scopes == ["ge", "Operator"] and not name.startswith("Get"):
        return f"void* {symbol}(void* self) {{ return self; }}"  # setters return the operator itself
    return f'long {symbol}() __attribute__((alias("convnext_zero")));'


def _scoped_name(symbol: str) -> tuple[list[str], str]:
    """Return scopes and name of a C++ function, and the rest of its symbol, from E on (Itanium C++ ABI, 5.1).

    A C function is its own name, without a rest.
    """
    nested = re.match(r"_ZN[KVrRO]*", symbol)
    if not nested:
        return [symbol], ""
    names, rest = [], symbol[nested.end() :]
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length.group())
        names.append(rest[length.end() : end])
        rest = rest[end:]
    if re.match(r"C[123]E", rest):
        names.append(_CONSTRUCTOR)
    return names or [symbol], rest
