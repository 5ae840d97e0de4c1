"""A registry's logins: htpasswd lines with bcrypt, the only hash it takes, by the C library's crypt(3).

python3 -IS htpasswd.py <LOGINS      `user:password` a line → htpasswd lines; the passwords are on no command line
"""

from __future__ import annotations

import ctypes
import secrets
import sys

_LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def line(user: str, password: str) -> str:
    """The line of one login. Raises OSError without libcrypt, ValueError for a user that can't stand in such a file."""
    if not user or any(letter.isspace() or letter in ":#" for letter in user):
        raise ValueError(f"a user's name has letters and no space, colon or #: {user!r}")
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    salt = "$2b$05$" + "".join(secrets.choice(_LETTERS) for _ in range(21)) + "."
    return f"{user}:{library.crypt(password.encode(), salt.encode()).decode()}"


def main() -> None:
    """Hash what is on standard input."""
    for login in sys.stdin.read().split():
        user, _, password = login.partition(":")
        print(line(user, password))


if __name__ == "__main__":
    main()
