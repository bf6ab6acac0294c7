"""``python -m fastnw`` is the command ``fastnw``."""

import sys

from fastnw.cli import main

sys.exit(main())
