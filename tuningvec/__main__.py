"""`python -m tuningvec`."""

import sys

from tuningvec.book.cli import main

if __name__ == "__main__":
    sys.exit(main())
