"""One module per set of features, each with its ``SET``; ``qdag.features.catalogue`` finds them by the name of the
module, which is the name of the set and of its table."""

import sys

UNLIMITED = sys.float_info.max
PERCENT = (0.0, 100.0)
SHARE = (0.0, 1.0)
BALANCE = (-1.0, 1.0)
NOT_NEGATIVE = (0.0, UNLIMITED)
RETURN = (-1.0, UNLIMITED)

TRAINED = ("alpha158",)
"""What models are trained on unless settings say otherwise."""
