"""Values for property tests."""

import random

from hypothesis import strategies as st

# Seeds shrink better than `st.randoms`, which records every number that is drawn.
RANDOM = st.integers(0, 2**32).map(random.Random)
