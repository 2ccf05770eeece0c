"""`python -m minikd`: the same as `minikd`."""

import sys

from minikd.cli import main

sys.exit(main())
