"""``python3 -m tests.lab``: see ``cli``."""
from .cli import main

raise SystemExit(main())
