"""`python -m examples.pipeline` serves the pipeline, and asks it questions."""

import sys

from examples.pipeline.run import main

if __name__ == "__main__":
    sys.exit(main())
