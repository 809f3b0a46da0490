"""Commands about the machine and its shell."""
