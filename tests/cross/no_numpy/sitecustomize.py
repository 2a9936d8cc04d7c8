"""Makes numpy impossible to import."""

import sys

sys.modules["numpy"] = None
