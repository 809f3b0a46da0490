"""The commands, one file each: those about runs and those about weights."""
