"""The house: who may import whom, no circle anywhere, what stays out of libraries. Each test lists its offenders."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "base": set(),
    "records": {"base"},
    "model": {"base"},
    "launch": {"base", "records", "model"},
    "ingest": {"base", "records", "launch"},
    "serve": {"base", "records", "model", "launch"},
    "train": {"base", "records", "model", "launch", "serve"},
}
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text()) for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py")
}
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in TREES}
TALKING = re.compile(r"(cli|cli_\w+|console|progress|options)\.py")
HEAVY = re.compile(r"(mindspore|cv2|pyarrow|numpy|scipy|PIL|ray)\b")


def _imports(path: Path, nodes: list[ast.stmt] | None = None) -> Iterator[str]:
    """Return the modules that a file imports, `from x import y` as x.y where that is a module; `nodes` to look into."""
    for node in ast.walk(TREES[path]) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix("convnext_imagenet.")
                yield f"{module}.{alias.name}" if inner in MODULES else module


def _own_imports(path: Path) -> set[str]:
    names = {name.removeprefix("convnext_imagenet.") for name in _imports(path) if name.startswith("convnext_imagenet")}
    return names & MODULES.keys()


def _circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return the nodes of one circle, or nothing: nodes without arrows to a remaining node are taken away in turn."""
    left = dict(arrows)
    while leaves := [node for node, targets in left.items() if not targets & left.keys()]:
        for node in leaves:
            del left[node]
    if not left:
        return []
    trail = [next(iter(sorted(left)))]
    while trail[-1] not in trail[:-1]:
        trail.append(min(left[trail[-1]] & left.keys()))
    return trail[trail.index(trail[-1]) :]


def test_rooms_import_only_what_lies_below_them():
    offenders = []
    for path in TREES:
        allowed = {path.parts[0], *MAY_IMPORT[path.parts[0]]}
        for module in _imports(path):
            top, _, rest = module.partition(".")
            is_bare = top in MAY_IMPORT or module.startswith(".")  # a bare import would load a second copy
            if is_bare or (top == "convnext_imagenet" and rest.split(".")[0] not in allowed):
                offenders.append(f"{path}: {module}")
    assert not offenders


def test_there_is_no_circle_of_files():
    assert not _circle({name: _own_imports(path) - {name} for name, path in MODULES.items()})


def test_there_is_no_circle_of_folders_and_files_inside_a_room():
    for room in MAY_IMPORT:
        arrows: dict[str, set[str]] = {}
        for name, path in MODULES.items():
            if path.parts[0] == room and name != room:
                node = name.split(".")[1]
                others = {module.split(".")[1] for module in _own_imports(path) if module.startswith(f"{room}.")}
                arrows.setdefault(node, set()).update(others - {node})
        assert not _circle(arrows), room


def test_the_search_for_circles_finds_one():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]


def test_libraries_do_not_talk_to_the_screen():
    offenders = []
    for path, tree in TREES.items():
        if TALKING.fullmatch(path.name):
            continue
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        prints = "print" in {call.id for call in calls if isinstance(call, ast.Name)}
        if prints or {"click", "tqdm"} & {module.partition(".")[0] for module in _imports(path)}:
            offenders.append(str(path))
    assert not offenders


def test_modules_and_public_names_say_what_they_are():
    offenders = [f"{path}: module" for path, tree in TREES.items() if not ast.get_docstring(tree)]
    offenders += [str(path) for path in TREES if path.name in {"utils.py", "common.py", "helpers.py"}]
    offenders += [
        f"{path}: {node.name}"
        for path, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert not offenders


def test_assert_never_checks_input():
    assert not [
        str(path) for path, tree in TREES.items() if any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    ]


def test_help_does_not_load_heavy_modules():
    offenders = []
    for path in (path for path in TREES if path.name.startswith("cli")):
        seen, queue = set(), [path]
        while queue:
            file = queue.pop()
            for module in _imports(file, TREES[file].body):
                own = MODULES.get(module.removeprefix("convnext_imagenet."))
                if HEAVY.match(module):
                    offenders.append(f"{path} by {file}: {module}")
                elif own is not None and own not in seen:
                    seen.add(own)
                    queue.append(own)
    assert not offenders


def test_commands_in_messages_quote_their_paths():
    """A command that a message tells to run must also run for a path with a space."""
    bare = re.compile(r"\b(?:convnext-\w+|make [a-z-]+ [A-Z]+=)[^\"`]*\{(?!as_word\()\w[^}]*\}")
    texts = {path: (ROOT / path).read_text() for path in TREES}
    assert not [f"{path}: {found[0]}" for path, text in texts.items() for found in bare.finditer(text)]
