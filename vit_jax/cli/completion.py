"""Scripts by which shells complete commands, arguments, config files and names of options.

The scripts are made by shtab, from the commands' own parsers. They hold all names, so that a shell
completes without starting Python.
"""

import argparse
import importlib
import os
from collections.abc import Mapping

import shtab

from vit_jax.cli.arguments import add_import_argument
from vit_jax.config_files import PREFIX, SHIPPED
from vit_jax.train.config import every_option

_CONFIG_FILES = "_vit_jax_config_file"
# Bash cuts --config=x.py into three words, of which shtab would take the second for the value.
_BASH = f"""\
{_CONFIG_FILES}() {{
  {{ compgen -f -- "$1"; compgen -W "NAMES" -- "$1"; }} | sort -u
}}
"""
_BASH_WORDS = """
_vit_jax_words() {
  local line=("${COMP_WORDS[@]}") at=$COMP_CWORD i
  local -a COMP_WORDS=()
  local COMP_CWORD=0
  for ((i = 0; i < ${#line[@]}; i++)); do
    if [[ ${line[i]} == "=" && $i -lt $at ]]; then continue; fi
    if [[ $i -eq $at ]]; then COMP_CWORD=${#COMP_WORDS[@]}; fi
    if [[ ${line[i]} == "=" ]]; then COMP_WORDS+=(""); else COMP_WORDS+=("${line[i]}"); fi
  done
  _shtab_vit_jax "$@"
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == --config.* ]]; then
    COMPREPLY[0]+="="
    compopt -o nospace 2>/dev/null || :
  fi
}
complete -o bashdefault -F _vit_jax_words vit_jax
"""
_ZSH = f"""\
{_CONFIG_FILES}() {{
  _alternative 'configs:config:(NAMES)' 'files:file:_files'
}}
"""
_FISH = f"""\
function {_CONFIG_FILES}
  printf '%s\\n' NAMES
  __fish_complete_path (commandline -ct)
end
"""
_PREAMBLES = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_CALLS = {"bash": _CONFIG_FILES, "zsh": _CONFIG_FILES, "fish": f"({_CONFIG_FILES})"}


def script(shell: str, commands: Mapping[str, tuple[str, str]]) -> str:
    """The script for a shell, bash, zsh or fish.

    Args:
      shell: name of the shell.
      commands: command -> package of its module, and what it does.
    """
    names = " ".join(f"configs/{file.name}" for file in sorted(SHIPPED.glob("*.py")))
    preamble = _PREAMBLES[shell].replace("NAMES", names)
    text = shtab.complete(_whole_parser(commands), shell, preamble=preamble)
    return text + (_BASH_WORDS if shell == "bash" else "\n")


def _whole_parser(commands: Mapping[str, tuple[str, str]]) -> argparse.ArgumentParser:
    """A parser with the arguments of all commands, and all options of configs as arguments."""
    parser = argparse.ArgumentParser(prog="vit_jax")
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command")
    options = [one for one in every_option() if not one.name.startswith("evals.")]
    for command, (room, summary) in commands.items():
        module = importlib.import_module(f"{room}.{command}")
        sub = subparsers.add_parser(command, help=summary)
        module.add_arguments(sub)
        add_import_argument(sub)
        takes_config = sub.get_default("config") is not None
        for action in sub._actions:
            takes_config |= action.dest == "config"
            if action.dest == "config" or (command, action.dest) == ("config", "what"):
                _complete(action, _CALLS)
            elif action.type is os.path.expanduser:
                _complete(action, shtab.FILE)
        if takes_config:
            for one in options:
                meaning = one.meaning.replace("%", "%%")
                sub.add_argument(f"{PREFIX}{one.name}", help=meaning)
    return parser


def _complete(action: argparse.Action, how: object) -> None:
    """Tells shtab how an argument's value is completed, by an attribute of its own."""
    vars(action)["complete"] = how
