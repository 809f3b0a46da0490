"""`vit_jax COMMAND`: runs the command and turns errors into exit statuses."""

import argparse
import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vit_jax import __version__
from vit_jax.cli.arguments import add_import_argument
from vit_jax.cli.startup import import_quickly, restart_with_huge_pages
from vit_jax.errors import (
    InputError,
    NonFiniteError,
    NotSavedError,
    Preempted,
    nearest,
    suggestion,
    unknown,
)
from vit_jax.parallel.chips import device_problem, ignore_absent_tpus
from vit_jax.schema import named_as_flags
from vit_jax.text import PrintableFormatter, printable

_RUNS, _WEIGHTS = "vit_jax.cli.commands.runs", "vit_jax.cli.commands.weights"
_MACHINE = "vit_jax.cli.commands.machine"
# Command -> the package of its file, and what the command does.
COMMANDS = {
    "train": (_RUNS, "pre-train or fine-tune a model"),
    "finetune": (_RUNS, "fine-tune weights on your own images, by one command"),
    "evaluate": (_WEIGHTS, "accuracy of a checkpoint on a data set"),
    "fewshot": (_WEIGHTS, "accuracy of frozen features with a few images of each class"),
    "probe": (_WEIGHTS, "accuracy of frozen features with all training images"),
    "predict": (_WEIGHTS, "classify image files"),
    "generate": (_WEIGHTS, "complete images by a model of pixels (iGPT), or draw new ones"),
    "figures": (_WEIGHTS, "draw filters, position embeddings, attention distance and rollout"),
    "report": (_RUNS, "write a page about a run, or several side by side"),
    "soup": (_WEIGHTS, "average the weights of several runs of one model"),
    "convert": (_WEIGHTS, "convert weights to the format of another program"),
    "push": (_WEIGHTS, "upload a model to the Hugging Face hub, with a model card"),
    "config": (_RUNS, "list the options of a run, print a resolved config, or compare two"),
    "data": (_RUNS, "show the data that a config reads, and the speed of reading"),
    "plan": (_RUNS, "estimate the memory, network traffic and time of a run"),
    "tables": (_RUNS, "the paper's tables with our numbers beside them"),
    "benchmark": (_RUNS, "measure the speed of a model, in total and by part"),
    "models": (_WEIGHTS, "list the models, their parameters and cost"),
    "doctor": (_MACHINE, "tell what this machine has for vit_jax, and what is missing"),
    "completion": (_MACHINE, "print the script by which a shell completes vit_jax"),
}
DONE, FAILED, WRONG_INPUT, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
PIPE_CLOSED = 141  # as a shell reports programs that SIGPIPE ends


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see `{self.prog} --help`")


class _Version(argparse.Action):
    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        import platform
        from importlib import metadata

        others = [f"Python {platform.python_version()}"]
        for name in ("jax", "flax"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                others.append(f"{name} {metadata.version(name)}")
        print(f"vit_jax {__version__} ({', '.join(others)})")
        raise SystemExit(DONE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    ignore_absent_tpus()
    if argv is None:
        argv = sys.argv[1:]
        restart_with_huge_pages()
    argv = list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names beyond the locale's characters
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # a reader that has closed shows here, not at the end
    except InputError as error:
        _tell_others(printable(error))
        print(f"vit_jax: {printable(error)}", file=sys.stderr)
        return WRONG_INPUT
    except Preempted as error:
        print(f"vit_jax: {printable(error)}", file=sys.stderr)
        return PREEMPTED
    except (NonFiniteError, NotSavedError) as error:
        print(f"vit_jax: {printable(error)}", file=sys.stderr)
        return FAILED
    except (RuntimeError, AssertionError):
        problem = device_problem() if "jax" in sys.modules else ""
        if not problem:
            raise
        _tell_others(problem)
        print(f"vit_jax: {problem}", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:  # the reader has closed early, as `head` does
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:
        # Files of the user are InputErrors; this is standard output, or a disk that has failed.
        if error.errno not in DISK_TROUBLE:
            raise
        _drop_output()
        where = error.filename or "standard output"
        print(f"vit_jax: cannot write {printable(where)}: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("vit_jax: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signals = sys.modules.get("vit_jax.train.health.signals")
        if signals is not None:
            signals.take_over()


def _drop_output() -> None:
    """Sends what Python has not written yet nowhere, instead of failing again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_others(problem: str) -> None:
    """Ends the other processes of a run, which would otherwise wait for this one."""
    if "jax" in sys.modules:
        from vit_jax.parallel.same import tell_others

        tell_others(problem)


def _run(argv: list[str]) -> int:
    parser = _Parser(prog="vit_jax", description="Vision Transformers in JAX.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    if name in ("train", "finetune"):
        # Before the imports, which take seconds.
        from vit_jax.train.health import signals

        signals.end_start_on_signals()
    modules = {}
    for command, (room, summary) in COMMANDS.items():
        # Only the chosen command is imported: start-up stays quick.
        if command == name:
            module = modules[command] = import_quickly(f"{room}.{command}")
            sub = commands.add_parser(
                command,
                help=summary,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
            module.add_arguments(sub)
            add_import_argument(sub)
        else:
            commands.add_parser(command, help=summary, add_help=False)
    try:
        args, rest = parser.parse_known_args(argv)
    except InputError as error:
        raise InputError(f"{error}{_hint(str(error), argv)}") from None
    takes_config = hasattr(args, "config")
    args.overrides = [word for word in rest if takes_config and word.startswith("--config.")]
    for place, word in enumerate(rest):
        if word not in args.overrides:
            raise _unknown_argument(word, rest[place - 1] if place else "", args, takes_config)
    if not args.command:
        parser.print_help()
        return DONE
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(PrintableFormatter())
    logging.getLogger("vit_jax").setLevel(logging.INFO)
    # Orbax logs warnings in normal operation; its errors are raised as exceptions.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if args.imports:
        from vit_jax.config_files import import_file

        for file in args.imports:
            import_file(file)
    with named_as_flags():
        return modules[args.command].run(args)


def _hint(problem: str, argv: Sequence[str]) -> str:
    """What was meant by a model without its option, as in `vit_jax predict WORKDIR IMAGE`."""
    if "required: --checkpoint" not in problem:
        return ""
    words = [word for word in argv[1:] if not word.startswith("-")]
    model = next((word for word in words if _is_model(word)), "MODEL")
    return f"; name the model by --checkpoint={model}"


def _is_model(word: str) -> bool:
    path = os.path.expanduser(word)
    whole = any(os.path.exists(os.path.join(path, name)) for name in ("config.json", "checkpoints"))
    return whole or word.startswith("vit_jax/") or word.endswith((".npz", ".safetensors", ".pth"))


def _unknown_argument(
    word: str, before: str, args: argparse.Namespace, takes_config: bool
) -> InputError:
    flags = [f"--{name.replace('_', '-')}" for name in vars(args)] + ["--import"]
    name, equals, value = word.partition("=")
    hint = nearest(name, flags, cutoff=0.7)
    if before.startswith("--config.") and "=" not in before and not word.startswith("-"):
        hint = f" after {before}; write {before}={word}"
    elif takes_config and not hint and name.startswith("--"):
        from vit_jax.config import default
        from vit_jax.config_files import meant_option

        option = meant_option(default(), name[2:].replace("-", "_"))
        hint = suggestion(f"--config.{option}{equals}{value}") if option else ""
    return InputError(f"unknown argument {word!r}{hint}; see `vit_jax {args.command} --help`")
