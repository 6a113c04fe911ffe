"""The command itself: light, complete, and clear when it refuses."""

import subprocess
import sys

import pytest

from licet.ledger.app import COMMANDS
from tests.ledger.cli.command import LICET, licet

SHOW_IMPORTS = """
import sys
sys.argv = ["licet", "--help"]
from licet.ledger.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "vllm", "numba", "numpy", "rocksdict", "pyarrow", "pydantic", "transformers"} & set(sys.modules)
print("\\nIMPORTED", sorted(heavy))
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SHOW_IMPORTS], capture_output=True, text=True, check=True)
    assert "IMPORTED []" in done.stdout


def test_help_lists_every_command():
    result = licet("--help")
    assert result.code == 0
    for name in COMMANDS:
        assert name in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    result = licet(name, "--help")
    assert result.code == 0
    assert "Usage: licet" in result.out


def test_version():
    assert licet("--version").out.strip()[0].isdigit()


def test_usage_errors_have_code_2():
    assert licet("no-such-command").code == 2
    assert licet("ledger", "forward").code == 2
    assert licet("init", "--no-such-option").code == 2


def test_completion_completes_commands_and_options():
    variables = {"_LICET_COMPLETE": "complete_bash", "COMP_WORDS": "licet led", "COMP_CWORD": "1"}
    assert "ledger" in licet(**variables).out
    variables = {"_LICET_COMPLETE": "complete_bash", "COMP_WORDS": "licet ledger rev", "COMP_CWORD": "2"}
    assert "reverse" in licet(**variables).out
    variables = {"_LICET_COMPLETE": "complete_bash", "COMP_WORDS": "licet ledger reverse --t", "COMP_CWORD": "3"}
    assert "--top" in licet(**variables).out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_can_be_shown(shell):
    assert "_LICET_COMPLETE" in licet(_LICET_COMPLETE=f"source_{shell}").out


def test_a_bug_says_that_it_is_one(monkeypatch):
    code = "from licet.ledger import terminal\nterminal.run(lambda: 1 / 0, as_json=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 101
    assert "bug" in done.stderr


def test_a_closed_pipe_is_no_error(tmp_path):
    done = subprocess.run(f"{LICET} --help | head -1", shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
