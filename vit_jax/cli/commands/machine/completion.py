"""Print the script by which a shell completes commands, arguments, config files and options.

  source <(vit_jax completion bash)             # bash: this shell; in ~/.bashrc: all shells
  vit_jax completion zsh > ~/.zfunc/_vit_jax    # zsh: with fpath+=(~/.zfunc) before compinit
  vit_jax completion fish > ~/.config/fish/completions/vit_jax.fish

The script holds all names, so that completing starts no Python. Print it again after an update.
"""

import argparse

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    """Prints the script; returns the exit status."""
    from vit_jax.cli.completion import script
    from vit_jax.cli.main import COMMANDS

    print(script(args.shell, COMMANDS))
    return 0
