"""How long a fresh Python takes to import a module, in seconds: the floor of any start of a daemon.

usage: importing.py MODULE
"""

from __future__ import annotations

import subprocess
import sys
import time


def main() -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {sys.argv[1]}"], check=True)
    print(time.monotonic() - began)


if __name__ == "__main__":
    main()
