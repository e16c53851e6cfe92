"""The rules for file names on Windows, as data.

Source: "Naming Files, Paths, and Namespaces" by Microsoft,
https://learn.microsoft.com/windows/win32/fileio/naming-a-file
"""

from __future__ import annotations

# "The following reserved characters: < > : " / \ | ? *"
RESERVED_CHARACTERS = '<>:"/\\|?*'
# "Characters whose integer representations are in the range from 1 through 31", and "integer value
# zero, sometimes referred to as the ASCII NUL character".
CONTROL_CHARACTERS = "".join(map(chr, range(32)))
# "Do not use the following reserved names for the name of a file". "Also avoid these names followed
# immediately by an extension". Windows also opens the console as CONIN$ and CONOUT$ ("Console
# Handles").
RESERVED_NAMES = [
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *("COM0", "COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8", "COM9"),
    *("LPT0", "LPT1", "LPT2", "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9"),
    *("COM¹", "COM²", "COM³", "LPT¹", "LPT²", "LPT³"),
]
# "Do not end a file or directory name with a space or a period."
FORBIDDEN_ENDS = (" ", ".")
# "commonly 255 characters", which are UTF-16 code units. Most file systems of Linux allow as many
# bytes.
MAX_UTF16_UNITS = 255
MAX_BYTES_ON_LINUX = 255
# "the maximum length for a path is MAX_PATH, which is defined as 260 characters", with the NUL at
# its end. "A directory path must leave space for a file name of 8.3 format."
MAX_PATH = 260


def is_valid(name: str) -> bool:
    """Return whether a file can have this name on Windows, and on Linux."""
    base = name.split(".")[0].rstrip(" ")
    return (
        name != ""
        and not any(character in RESERVED_CHARACTERS + CONTROL_CHARACTERS for character in name)
        and not name.endswith(FORBIDDEN_ENDS)
        and base.upper() not in RESERVED_NAMES
        and len(name.encode("utf-16-le", "surrogatepass")) // 2 <= MAX_UTF16_UNITS
        and len(name.encode("utf-8", "surrogatepass")) <= MAX_BYTES_ON_LINUX
    )
