"""Completion in a real shell, and the list of shipped files."""

import shutil
import subprocess
import sys

import pytest
from helpers.command_line import refused, shipped

from lightning_fusion.cli.completion import completion
from lightning_fusion.cli.main import main

# Calls the completion as bash does, for a command line of which the last word is being typed.
ASK = """
function=$(complete -p lightning-fusion | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rec", {"recipe"}),
        ("recipe f", {"foe", "frugal"}),
        ("recipe foe --fuser_", {"--fuser_epochs", "--fuser_batch_size"}),
        ("predict --ru", {"--run"}),
        ("fit --trainer.max_e", {"--trainer.max_epochs"}),
        ("fit -c foe/dig", {"foe/digits.yaml", "foe/digits_raw.yaml"}),
        ("fit -c mi", {"mine.yaml"}),
        ("configs trainer/", {name for name in shipped() if name.startswith("trainer/")}),
    ],
)
def test_bash_completes(words, expected, script, tmp_path):
    (tmp_path / "mine.yaml").touch()
    command = ["bash", "--norc", "-c", f"source {script}\n{ASK}", "bash", "lightning-fusion", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "complete.sh"
    path.write_text(completion("bash"))
    return path


def test_other_shells(capsys):
    main(["--print_completion", "zsh"])
    assert capsys.readouterr().out.startswith("#compdef lightning-fusion")
    assert refused(["--print_completion=fish"]) == "--print_completion: found 'fish'; expected bash or zsh"


class TestConfigs:
    def test_lists_all_files_or_those_of_a_folder_with_their_titles(self, capsys):
        main(["configs"])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[:-2]] == shipped()
        gpu = next(line.split(maxsplit=1)[1] for line in lines if line.startswith("trainer/gpu.yaml"))
        assert gpu.startswith("All GPUs of this machine, mixed precision")
        main(["configs", "trainer"])
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == shipped("trainer")

    def test_prints_a_file_that_runs_as_it_is(self, capsys, tmp_path):
        main(["configs", "foe/digits.yaml"])
        first = capsys.readouterr().out
        main(["configs", "configs/foe/digits"])
        assert first == capsys.readouterr().out == (shipped_text := open_shipped("foe/digits.yaml"))
        assert shipped_text.startswith("#")

    def test_unknown_names(self):
        message = refused(["configs", "foe/digts.yaml"])
        assert "found no file foe/digts.yaml, and no shipped one of that name; did you mean foe/digits" in message
        assert "configs: found the option --all" in refused(["configs", "--all"])

    @pytest.mark.slow
    def test_a_reader_that_stops_is_no_error(self):
        command = f"'{sys.executable}' -m lightning_fusion configs experts foe recipes | head -1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith("experts/digits.yaml") and not done.stderr


def open_shipped(name: str) -> str:
    from lightning_fusion.cli.config import shipped_configs

    return (shipped_configs() / name).read_text()
