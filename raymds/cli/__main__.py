"""`python -m raymds.cli`, as jobs of a cluster call it."""

import sys

from raymds.cli.main import main

sys.exit(main())
