"""A terminal for tests: a program runs in a pseudo-terminal, and its screen is read."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def lines_on_screen(text):
    """The lines that a terminal shows, those that have scrolled away too; control sequences of
    the VT100 that move the cursor and erase are obeyed, others must be colours."""
    lines, row, column, place = [""], 0, 0, 0
    while place < len(text):
        found = _SEQUENCE.match(text, place)
        if found:
            place, number = found.end(), int(found[1] or 0) if found[1].isdigit() else 0
            if found[2] == "A":
                row = max(0, row - max(number, 1))
            elif found[2] == "K":
                lines[row] = "" if number == 2 else lines[row][:column]
            elif found[2] != "m":
                raise AssertionError(f"unknown sequence {found[0]!r}")
            continue
        character = text[place]
        place += 1
        if character == "\n":
            row, column = row + 1, 0  # a pseudo-terminal writes \r\n
            lines += [""] * (row + 1 - len(lines))
        elif character == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def resize(fd, columns, rows=24):
    """Gives a terminal another size."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Watched:
    """A program whose standard error is a terminal."""

    def __init__(self, command, columns=90, **options):
        self.main, side = pty.openpty()
        resize(self.main, columns)
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        environment |= {"TERM": "xterm", "COLUMNS": "", "LINES": ""}
        for name in ("COLUMNS", "LINES"):
            del environment[name]
        self.process = subprocess.Popen(
            command, stdin=side, stdout=subprocess.PIPE, stderr=side, env=environment,
            start_new_session=True, **options,
        )  # fmt: skip
        self.side = side
        self.text = ""

    def read(self, until=None, seconds=120):
        """Reads until the text has `until`, or the program has ended; returns all text."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ready, _, _ = select.select([self.main], [], [], 0.2)
            if ready:
                self.text += os.read(self.main, 65536).decode(errors="replace")
            elif self.process.poll() is not None:
                return self.text
            if until and until in self.text:
                return self.text
        raise AssertionError(f"not within {seconds} s: {until!r}\n{self.text[-2000:]}")

    def close(self):
        """Ends the program, if it is still there, and closes the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        out = self.process.communicate()[0]
        os.close(self.main)
        os.close(self.side)
        return out
