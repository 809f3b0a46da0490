"""The commands of `vit_jax`, one small file each."""
