"""`python -m vit_jax`."""

import sys

from vit_jax.cli.main import main

sys.exit(main())
