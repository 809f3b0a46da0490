"""A compiled training step in a file: `vit_jax plan --save`, `vit_jax train --compiled`."""
