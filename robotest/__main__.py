"""``python -m robotest``: the command line."""

import sys

from robotest.cli.main import main

sys.exit(main())
