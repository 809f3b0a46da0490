"""Completion in a real bash: by its readline, as a user presses the tabulator key."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from vit_jax.cli.main import COMMANDS, main
from vit_jax.config_files import SHIPPED
from vit_jax.train.config import every_option

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(not BASH, reason="there is no bash here")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "vit_jax.bash"
    from vit_jax.cli.completion import script

    path.write_text(script("bash", COMMANDS))
    return path


def typed(script, text, cwd, until):
    """What an interactive bash shows once `text`, with tabulators, is typed."""
    child, master = pty.fork()
    if child == 0:
        os.chdir(cwd)
        environment = dict(PATH=os.environ["PATH"], PS1="> ", TERM="dumb", HISTFILE="/dev/null")
        os.execve(BASH, [BASH, "--norc", "--noprofile", "-i"], environment)
    shown = ""

    def read(pattern):
        nonlocal shown
        end = time.monotonic() + 60
        while not re.search(pattern, shown) and time.monotonic() < end:
            if select.select([master], [], [], 0.2)[0]:
                shown += os.read(master, 4096).decode(errors="replace")
        return shown

    try:
        setup = f"source {script}; bind 'set show-all-if-ambiguous on'; bind 'set page-completions "
        os.write(master, f"{setup}off'; bind 'set bell-style none'; echo re''ady\n".encode())
        read(r"\nready")
        shown = ""
        os.write(master, text.encode())
        return read(until)
    finally:
        os.close(master)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    "text, until",
    [
        ("vit_jax finet\t", r"vit_jax finetune $"),
        ("vit_jax tra\t--dr\t", r"vit_jax train --dry-run $"),
        ("vit_jax train --config.optimizer.le\t3", r"--config\.optimizer\.learning_rate=3$"),
        ("vit_jax train --config=configs/quick\t", r"--config=configs/quickstart\.py $"),
        ("vit_jax config configs/quick\t", r"config configs/quickstart\.py $"),
        ("vit_jax config mine\t", r"config mine\.py $"),
        ("vit_jax convert weig\t", r"convert weights\.npz $"),
        ("vit_jax completion f\t", r"completion fish $"),
    ],
)
def test_bash_completes(script, tmp_path, text, until):
    (tmp_path / "mine.py").touch()
    (tmp_path / "weights.npz").touch()
    assert re.search(until, typed(script, text, tmp_path, until))


def test_bash_lists_all_commands_and_options(script, tmp_path):
    code = f"""
source {script}
complete() {{ :; }}
list() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _vit_jax_words
  printf '%s\\n' "${{COMPREPLY[@]}}"
}}
list vit_jax ""; echo ---; list vit_jax train --config.; echo ---; list vit_jax train --config = ""
"""
    done = subprocess.run([BASH, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    commands, options, files = (part.split() for part in done.stdout.split("---\n"))
    assert set(COMMANDS) <= set(commands)
    known = {f"--config.{one.name}" for one in every_option() if not one.name.startswith("evals.")}
    assert set(options) == known
    assert set(files) == {f"configs/{path.name}" for path in SHIPPED.glob("*.py")}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "config.optimizer.learning_rate" in text and "configs/quickstart.py" in text
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(text)
    done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_an_unknown_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err.replace("choose from ", "")
