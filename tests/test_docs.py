"""What the documents promise exists, what exists is in the documents, and each fact stands in one place."""

import importlib
import itertools
import re
import shlex
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from convnext_imagenet.base.console import RenamedOption
from convnext_imagenet.base.errors import ExpectedError
from convnext_imagenet.serve.inputs.kinds import FILE_KINDS
from convnext_imagenet.train.config.config import dotted_keys
from convnext_imagenet.train.config.source import load_config, preset_names

from .documents import (
    ROOT,
    Document,
    all_documents,
    anchors,
    code_words,
    command_lines,
    figures,
    links,
    user_documents,
)

ROOMS = ("records", "ingest", "train", "serve")
MAKEFILE = (ROOT / "Makefile").read_text()
RECIPES = dict(re.findall(r"^([a-z][a-z-]*):[^\n]*\n((?:\t[^\n]*\n?)*)", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE))
PRESETS = sorted((ROOT / "train" / "presets").glob("*.toml"))
USER_TEXT = "\n".join(document.text for document in user_documents())
LONGEST_README_LINES = 200
MOST_TERMS = 20
LARGEST_PICTURE_BYTES = 100_000
USAGE, DONE = 2, 0

# Numbers that two pages may share: limits and sizes that are no measurements.
SHARED_FIGURES: set[str] = set()


def _groups() -> dict[str, click.Group]:
    return {f"convnext-{room}": import_module(f"convnext_imagenet.{room}.cli").main for room in ROOMS}


def _commands() -> list[tuple[str, click.Command]]:
    return [pair for name, group in _groups().items() for pair in _commands_of(name, group)]


def _commands_of(name: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands_of(f"{name} {word}", command)
        else:
            yield f"{name} {word}", command


def _options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option) and not option.hidden]


# Everything that exists is documented.


@pytest.mark.parametrize(("name", "command"), _commands(), ids=[name for name, _ in _commands()])
def test_every_command_and_option_has_help_and_is_documented(name, command):
    assert command.help
    assert name in USER_TEXT, f"neither README nor docs/ name {name}"
    for option in _options(command):
        assert option.help, f"{name} {option.name} has no help"
        assert re.search(rf"{option.opts[0]}\b(?!-)", USER_TEXT), (
            f"neither README nor docs/ name {name} {option.opts[0]}"
        )


def test_every_make_target_has_help_and_is_documented():
    documented = set(re.findall(r"^([a-z][a-z-]*):.*## ", MAKEFILE, re.MULTILINE))
    assert RECIPES.keys() == documented
    missing = [target for target in RECIPES if not re.search(rf"make {target}\b(?!-)", USER_TEXT)]
    assert not missing, f"neither README nor docs/ name make {missing}"


def test_every_make_variable_is_documented():
    missing = [name for name in VARIABLES if not re.search(rf"\b{name}\b", USER_TEXT)]
    assert not missing, f"neither README nor docs/ name the variables {missing}"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_has_a_header_and_is_documented(path):
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("#")
    for word in ("command", "hours", "accuracy"):
        assert word in header.lower(), f"the header of {path.name} does not state its {word}"
    assert f"| `{path.stem}`" in USER_TEXT or f", `{path.stem}`" in USER_TEXT, f"no table of presets names {path.stem}"


def _exit_codes() -> set[int]:
    for room in ("ingest", "launch", "serve", "train"):
        importlib.import_module(f"convnext_imagenet.{room}.errors")
    kinds, codes = [ExpectedError], {DONE, USAGE}
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes.add(kind.exit_code)
    return codes


def test_every_kind_of_input_file_is_documented():
    page, predict = (ROOT / "docs" / "predictions.md").read_text(), dict(_commands())["convnext-serve predict"]
    for kind in FILE_KINDS:
        missing = [ending for ending in kind.endings if f"`{ending}`" not in page]
        assert not missing, f"docs/predictions.md does not name {missing}"
        assert any(ending.removeprefix(".") in predict.help for ending in kind.endings), (
            f"the help of IMAGES names none of {kind.endings}"
        )


def test_the_readme_lists_exactly_the_exit_codes_that_the_commands_use():
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## Exit codes") :].split("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == _exit_codes()


def test_every_page_and_picture_of_docs_is_reached_from_another():
    targets = {
        (document.path.parent / target.partition("#")[0]).resolve()
        for document in all_documents()
        for target in links(document)
        if target.partition("#")[0] != document.path.name
    }
    files = [path for path in (ROOT / "docs").rglob("*") if path.is_file()]
    assert not [str(path.relative_to(ROOT)) for path in files if path.resolve() not in targets]


# Everything that is documented exists.


@pytest.mark.parametrize("document", all_documents(), ids=lambda document: document.name)
def test_links_lead_to_files_and_headings(document):
    dead = [target for target in links(document) if not _is_alive(document, target)]
    assert not dead


def _is_alive(document: Document, target: str) -> bool:
    if re.match(r"https?://", target):
        return True
    name, _, anchor = target.partition("#")
    path = (document.path.parent / name).resolve() if name else document.path
    if not path.exists():
        return False
    return not anchor or anchor in anchors(Document(path))


def _documented_lines() -> list[tuple[str, str]]:
    """Command lines with where they stand. DECISIONS.md is history: its commands may be gone."""
    pages = [document for document in all_documents() if document.name != "DECISIONS.md"]
    lines = [(document.name, line) for document in pages for line in command_lines(document)]
    headers = [(path.name, re.findall(r"^# Command: +(.+)$", path.read_text(), re.MULTILINE)) for path in PRESETS]
    return sorted({*lines, *((name, line) for name, found in headers for line in found)})


@pytest.mark.parametrize(("name", "line"), _documented_lines(), ids=lambda text: text)
def test_documented_commands_parse(name, line):
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "make":
        _check_make(words[1:])
    else:
        _check_command(words)


def _check_make(words: list[str]) -> None:
    values = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    targets = [word for word in words if "=" not in word]
    unknown = {*targets} - RECIPES.keys() | values.keys() - VARIABLES
    assert not unknown, f"the Makefile has no {unknown}"
    if "PART" in values:
        assert (ROOT / "bench" / f"bench_{values['PART']}.py").exists(), f"no benchmark {values['PART']}"
    config = values.get("CONFIG", "paper-tiny")
    assert config in (*preset_names(), "auto") or config.endswith(".toml"), f"no preset {config}"
    load_config(config if config in preset_names() else "demo", shlex.split(values.get("SET", "")))
    for target in targets:
        behind = re.findall(r"convnext-(\w+) (\w+)", RECIPES[target])
        if behind and "ARGS" in values:
            _check_command([f"convnext-{behind[-1][0]}", behind[-1][1], *shlex.split(values["ARGS"])])


def _check_command(words: list[str]) -> None:
    command: click.Command = _groups()[words[0]]
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        assert rest[0] in command.commands, f"{words[0]} has no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    context = click.Context(command)
    values, _, _ = command.make_parser(context).parse_args(list(rest))  # raises UsageError for an unknown option
    former = _former_names(command) & {word.split("=")[0] for word in rest}
    assert not former, f"{former} are former names"
    for option in _options(command):
        _check_values(option, values.get(option.name or ""), context)
    load_config("paper-tiny", [value for flag, value in itertools.pairwise(rest) if flag == "--set"])


def _former_names(command: click.Command) -> set[str]:
    """Old spellings that still work and that documents no longer teach."""
    options = [option for option in command.params if isinstance(option, click.Option)]
    renamed = [name for option in options if isinstance(option, RenamedOption) for name in option.opts[1:]]
    return {*renamed, *(name for option in options if option.hidden for name in option.opts)}


def _check_values(option: click.Option, value: object, context: click.Context) -> None:
    """Raise UsageError for a value that the option does not take; words in capitals stand for a value of the user's."""
    for given in value if isinstance(value, list | tuple) else [value]:
        if isinstance(given, str) and not given.isupper() and not isinstance(option.type, click.Path):
            option.type.convert(given, option, context)


def test_options_and_overrides_within_sentences_exist():
    words = {word for document in user_documents() for word in code_words(document)}
    options = {name for _, command in _commands() for option in command.params for name in option.opts}
    named = {name for word in words for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", word)}
    unknown = named - options - {"--help", "--num-cpus"}  # the second is Ray's
    assert named
    assert not unknown
    for word in words:
        if word.startswith("SET=") and "section.key" not in word:
            load_config("paper-tiny", shlex.split(shlex.split(word)[0].removeprefix("SET=")))


def test_variables_of_the_environment_in_documents_exist_in_the_code():
    named = {
        name for document in all_documents() for name in re.findall(r"\b(?:CONVNEXT|BENCH)_[A-Z_]+", document.text)
    }
    listing = [
        path for room in (*ROOMS, "base", "model", "launch", "bench", "tests") for path in (ROOT / room).rglob("*.py")
    ]
    code = "\n".join(path.read_text() for path in listing if path != Path(__file__))
    assert not {name for name in named if name not in code}


def test_files_that_documents_name_exist():
    rooms = ("base", "bench", "demo", "docs", "ingest", "launch", "model", "records", "serve", "tests", "train")
    pages = [document for document in all_documents() if document.name not in ("CHANGELOG.md", "DECISIONS.md")]
    words = {word for document in pages for word in code_words(document)}
    named = {word for word in words if re.fullmatch(rf"({'|'.join(rooms)})/[\w./*-]*\.(py|toml|txt|md)", word)}
    assert named
    assert not {word for word in named if not list(ROOT.glob(word))}


def test_configuration_keys_in_documents_exist():
    keys = dotted_keys()
    sections = {key.split(".")[0] for key in keys}
    words = {word for document in user_documents() for word in code_words(document)}
    named = {re.split(r" |=", word)[0] for word in words if re.match(rf"({'|'.join(sections)})\.[a-z*]", word)}
    unknown = {word for word in named if not any(re.fullmatch(word.replace("*", ".*"), key) for key in keys)}
    assert named
    assert not unknown - {path.name for path in ROOT.rglob("*.py")}


def test_extras_in_documents_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = "\n".join(document.text for document in all_documents())
    named = re.findall(r"pip install[^\n]*(?:'\.|convnext_imagenet)\[(\w+)\]", texts)
    assert named
    assert {*named} <= project["optional-dependencies"].keys()


# Each fact stands in one place, and documents stay short.


def test_no_figure_stands_on_two_pages():
    pages = defaultdict(list)
    for document in user_documents():
        for figure in figures(document) - SHARED_FIGURES:
            pages[figure].append(document.name)
    assert not {figure: names for figure, names in pages.items() if len(names) > 1}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README_LINES


def test_there_is_one_glossary_and_it_is_short():
    places = [document for document in all_documents() if "glossary" in anchors(document)]
    assert [document.name for document in places] == ["CONTRIBUTING.md"]
    glossary = places[0].text.split("## Glossary")[1].split("\n## ")[0]
    assert 0 < len(re.findall(r"^\| ", glossary, re.MULTILINE)) - 1 <= MOST_TERMS


def test_pictures_are_small():
    large = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert not {name: size for name, size in large.items() if size > LARGEST_PICTURE_BYTES}


def test_no_tracked_file_names_a_home_folder_of_somebodys_machine():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(r"/(?:(?:home|Users)/[a-z]|root/)")
    texts = [ROOT / name for name in listing.stdout.split() if Path(name).suffix in {".py", ".md", ".toml", ".sh", ""}]
    offenders = [str(path) for path in texts if path.is_file() and home.search(path.read_text(errors="replace"))]
    assert not offenders


def test_every_schema_of_json_is_compared_with_the_output_of_its_command():
    schemas = re.findall(r"^## (convnext-.+)$", (ROOT / "docs" / "json.md").read_text(), re.MULTILINE)
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(schemas) > 10
    assert not [schema for schema in schemas if f'"{schema}")' not in code]


# The site.


def test_every_page_is_in_the_navigation_of_the_site():
    entries = re.findall(r"^ +- (?:[^:\n]+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(entries) == sorted(pages)


def test_links_of_the_site_lead_to_pages_of_the_site():
    for document in user_documents()[1:]:
        outside = [target for target in links(document) if not re.match(r"https?://", target)]
        outside = [target for target in outside if not _is_below_docs(document, target)]
        assert not outside, f"{document.name}: the site has no {outside}"


def _is_below_docs(document: Document, target: str) -> bool:
    return (document.path.parent / target.partition("#")[0]).resolve().is_relative_to(ROOT / "docs")
