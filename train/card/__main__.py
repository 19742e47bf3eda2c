"""`python -m train.card`."""

import sys

from train.card import main

sys.exit(main())
