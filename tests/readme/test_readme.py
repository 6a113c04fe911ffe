"""The documents are held to their word: links, commands, outputs, tables.

A fenced block after `<!-- run -->` is run as it stands, in order, each document in a folder of its own; every other
`licet …` command that is shown must exist, with the options that it is shown with.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from licet.ledger import app, records

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "ledger"
README = ROOT / "README.md"
INSIDE = LEDGER / "README.md"
POLICIES = ROOT / "policies" / "README.md"
TRAIN = ROOT / "train" / "README.md"
DOCUMENTS = [README, INSIDE, POLICIES, TRAIN, *(ROOT / f"{name}.md" for name in ("DECISIONS", "CHANGELOG", "SECURITY"))]
LEFT_OUT = "[…]"

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    runs: bool
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    found = []
    text = path.read_text()
    for match in re.finditer(r"(<!-- run -->\n)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.append(Block(match[2], match[1] is not None, match[3], text.count("\n", 0, match.start()) + 1))
    return found


def between(path: Path, name: str) -> str:
    text = path.read_text()
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    assert text.count(begin) == text.count(end) == 1, f"{path.name} has no section {name}"
    return text.partition(begin)[2].partition(end)[0]


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-: ")]


# ---- links -----------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_somewhere(path):
    without_code = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}, which is not there"
        assert file.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(file), f"{path.name} links to {target}: no such heading"


def test_the_picture_is_well_formed_and_marks_what_exists():
    from xml.etree import ElementTree

    picture = ElementTree.parse(ROOT / "docs" / "loop.svg").getroot()  # noqa: S314  our own file
    names = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"source", "attestation", "gate", "trainer", "ledger", "serving", "receipt", "correction"} <= names
    assert "exists today" in names
    assert "prefers-color-scheme: dark" in (ROOT / "docs" / "loop.svg").read_text()


# ---- commands --------------------------------------------------------------------------------------------------


def commands_of_the_program() -> dict[tuple[str, ...], typer.main.TyperCommand]:
    """Every command that can be called, by its words."""
    found = {}

    def visit(command, words):
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                visit(below, (*words, name))
        else:
            found[words] = command

    for name, (target, _) in app.COMMANDS.items():
        module, _, attribute = target.partition(":")
        visit(typer.main.get_command(getattr(importlib.import_module(module), attribute)), (name,))
    return found


COMMANDS = commands_of_the_program()


def shown_commands(path: Path) -> set[str]:
    """The `licet` commands in fenced blocks and in running text."""
    text = path.read_text()
    lines = [line for block in blocks(path) if block.language == "sh" for line in block.text.splitlines()]
    lines += re.findall(r"`([^`\n]*\blicet [^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    found = set()
    for line in lines:
        match = re.match(r"(?:[A-Z_]+=\S* )?(?:\.venv/bin/)?licet (.+)", line.strip())
        if match is not None:
            found.add(match[1])
    return found


def resolved(words: list[str]) -> tuple[str, ...] | None:
    """The command that these words call; None for the program or a group of it."""
    for count in range(min(len(words), 3), 0, -1):
        if tuple(words[:count]) in COMMANDS:
            return tuple(words[:count])
    known = {path[:count] for path in COMMANDS for count in (1, 2)}
    plain = tuple(word for word in words if word.isidentifier())
    assert not plain or plain in known, f"`licet {' '.join(words)}` does not exist"
    return None


@documents
def test_shown_commands_exist_and_know_their_options(path):
    for line in sorted(shown_commands(path)):
        words = shlex.split(line.replace("…", "").split(" >")[0], comments=True)
        command = resolved(words)
        if command is None:
            continue
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        for word in words:
            if re.fullmatch(r"--?[a-z][a-z-]*", word):
                assert word in known | {"--help"}, f"`licet {line}` in {path.name}: no option {word}"


def test_every_command_explains_itself():
    for words in COMMANDS:
        result = CliRunner().invoke(app.app, [*words, "--help"])
        assert result.exit_code == 0, words
        assert "Usage:" in result.output


def test_reference_lists_exactly_the_commands():
    listed = [row[0].strip("`") for row in rows(between(README, "commands"))[1:]]
    assert all(line.startswith("licet ") for line in listed)
    assert {resolved(shlex.split(line)[1:]) for line in listed} == set(COMMANDS)
    assert len(listed) == len(COMMANDS)


def test_make_targets_are_the_makefiles():
    listed = {row[0].strip("`").removeprefix("make ") for row in rows(between(README, "make"))[1:]}
    assert listed == set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_markers_are_pytests(pytestconfig):
    development = README.read_text().partition("## Development")[2]
    for line in pytestconfig.getini("markers"):
        name = line.partition(":")[0]
        if name in (ROOT / "pyproject.toml").read_text().partition("markers = [")[2].partition("]")[0]:
            assert f"`{name}`" in development, f"the marker {name} is not explained"


# ---- what is shown runs ----------------------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LICET_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}


def run_all(path: Path, folder: Path) -> dict[str, str]:
    """Run the marked blocks of a document in order; what each printed, by its text."""
    printed = {}
    for block in blocks(path):
        if not block.runs:
            continue
        assert block.language in ("sh", "python"), f"{path.name}, line {block.line}: this cannot be run"
        command = (
            ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-W", "error", "-c"]
        )
        done = subprocess.run(
            [*command, block.text],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{path.name}, line {block.line}:\n{block.text}\n{done.stdout}{done.stderr}"
        printed[block.text] = done.stdout
    return printed


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory) -> dict[str, str]:
    return run_all(README, tmp_path_factory.mktemp("readme"))


@pytest.mark.timeout(1200)  # it trains a small model
def test_the_readmes_blocks_run(readme_run):
    assert len(readme_run) >= 8
    assert any("receipt verify" in text for text in readme_run)


def test_the_ledgers_blocks_run_and_print_what_is_said(tmp_path):
    printed = run_all(INSIDE, tmp_path)
    (told,) = [out for text, out in printed.items() if "forward(source" in text]
    said = INSIDE.read_text()
    for line in told.splitlines():
        assert f"`{line}`" in said, f"ledger/README.md does not say that its example prints {line}"


def test_the_trainers_blocks_run(tmp_path):
    (printed,) = run_all(TRAIN, tmp_path).values()
    assert "('embedding', 'middle', 'head')" in printed
    assert "nan" in printed


def test_every_file_of_the_trainer_is_named():
    files = {str(path.relative_to(TRAIN.parent)) for path in TRAIN.parent.rglob("*.py") if path.name != "__init__.py"}
    assert {row[0].strip("`") for row in rows(between(TRAIN, "files"))[1:]} == files


def shape(line: str) -> str:
    """A line of the demo without what differs from run to run: numbers, and which packages are installed."""
    line = re.sub(r"^   ([0-9]+\. in \S+:) \S+", r"   \1 PACKAGE", line)
    line = re.sub(r"licence of \S+ is revoked", "licence of PACKAGE is revoked", line)
    line = re.sub(r"seal [0-9a-f]{16}$", "seal ID", line)
    line = re.sub(r"^   \S+ +.* ((?:[0-9.]{4} +){3})\S+$", r"   PACKAGE \1", line)  # who may teach how deep
    line = re.sub(r"^   \S+ +([a-z]+)((?: +[0-9.]+){3})$", r"   PACKAGE \1\2", line)  # what is recited
    line = re.sub(r"^   \S+((?: +(?:·|[░▒▓█] [0-9.]+))+)$", "   PACKAGE CELLS", line)  # the heatmap
    return re.sub(r"[0-9][0-9.,]*", "#", re.sub(r" {2,}(?=\S)", "  ", line.rstrip())).lstrip()


@pytest.mark.timeout(1200)
def test_the_demo_prints_what_is_shown(readme_run):
    (demo,) = [text for text in readme_run if "licet demo" in text]
    real = [shape(line) for line in readme_run[demo].splitlines() if line.strip()]
    shown = [line for line in between(README, "demo").splitlines() if line.strip() and not line.startswith("```")]
    # Lines may be missing only where it says so.
    pattern = "".join("(?:.*\n)*?" if line.strip() == LEFT_OUT else re.escape(shape(line)) + "\n" for line in shown)
    assert re.match(pattern, "\n".join(real) + "\n"), "the demo now prints:\n" + readme_run[demo]
    claims = [line for line in real if line[0] in "✓✗"]
    assert claims == [shape(line) for line in shown if line.strip()[0] in "✓✗"]
    assert not any(line.startswith("✗") for line in claims)


# ---- the developer's page --------------------------------------------------------------------------------------


def test_every_file_of_the_ledger_is_named():
    files = {str(path.relative_to(LEDGER)) for path in LEDGER.rglob("*.py") if path.name != "__init__.py"}
    table = INSIDE.read_text().partition("## The files")[2].partition("\n## ")[0]
    listed = [name for row in rows(table)[1:] for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(listed) == sorted(files), "the table of files in ledger/README.md says each one's job"


def test_every_record_kind_is_listed():
    listed = {
        (int(row[0]), int(row[1])): row[2].strip("`")
        for row in rows(INSIDE.read_text())
        if len(row) == 5 and row[0].isdigit() and row[1].isdigit()
    }
    assert listed == {tag: cls.__name__ for tag, cls in records.BY_TAG.items()}


def test_every_lookup_is_listed():
    from licet.ledger.lookup import ABOUT

    listed = {row[2].strip("`"): row[4].strip("`") for row in rows(INSIDE.read_text()) if len(row) == 5}
    for cls in records.BY_TAG.values():
        expected = ABOUT.get(cls, "the exposure index" if cls is records.GradientApplied else "–")
        assert listed[cls.__name__] == expected


def test_every_limit_is_listed_with_its_value():
    limits = {}
    for path in LEDGER.glob("*.py"):
        for name in re.findall(r"^([A-Z]\w*_(?:MAX|MIN))\b(?:: \w+)? =", path.read_text(), re.MULTILINE):
            value = getattr(importlib.import_module(f"licet.ledger.{path.stem}"), name)
            limits[f"{path.stem}.{name}"] = f"{value:,.0f}"
    table = INSIDE.read_text().partition("## Limits")[2].partition("\n## ")[0]
    assert {row[0].strip("`"): row[1] for row in rows(table)[1:]} == limits


def test_the_event_table_is_the_encoding():
    from licet.ledger import codec
    from licet.ledger.records import GradientApplied, Norms, Ref

    table = INSIDE.read_text().partition("### An event, byte by byte")[2].partition("\n### ")[0]
    at = 0
    for row in rows(table)[1:]:
        assert int(row[0]) == at
        with contextlib.suppress(ValueError):
            at += int(row[1])
    empty = codec.encode(GradientApplied(0, 0, 0, 0, 0, Ref(0), Ref(0), Ref(0), Norms(())))
    assert at == len(empty)


# ---- the house -------------------------------------------------------------------------------------------------


def test_decisions_say_context_choice_and_what_was_given_up():
    parts = re.split(r"^### ", (ROOT / "DECISIONS.md").read_text(), flags=re.MULTILINE)[1:]
    for part in parts:
        for word in ("*Context.*", "*Choice.*", "*Given up.*"):
            assert part.count(word) == 1, part.splitlines()[0]


def test_the_results_have_a_place():
    assert between(README, "results").strip()


def test_the_run_file_in_the_trainers_readme_can_be_read(tmp_path):
    from licet.train.run.file import read_run

    text = between(TRAIN, "run-file").partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert read_run(path).file.name == "tales"


def test_every_field_of_a_run_file_is_explained():
    from licet.train.run.file import RunFile

    said = {name for row in rows(between(TRAIN, "run-fields"))[1:] for name in re.findall(r"`([^`]+)`", row[0])}
    assert said == set(fields_of(RunFile))


def fields_of(model, prefix=""):
    """The names of a pydantic model's fields, those of its parts with a dot."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        part = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if part is None:
            yield f"{prefix}{name}"
        else:
            yield from fields_of(part, f"{name}.")
