"""Runs `vit_jax plan` on a config that a test writes."""

import contextlib
import io

from vit_jax.cli.main import main


def plan(*args):
    """The exit status and the standard output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(["plan", *map(str, args)])
    return status, out.getvalue()
