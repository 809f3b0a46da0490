"""The commands, one file each: commands about runs, and commands about weights."""
