"""``python -m lrtune``: the same as ``lrtune``, but for a folder whose files would shadow the standard library."""

import sys

if sys.path and not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))  # the working directory, which -m puts first, goes last

from lrtune.cli import main

if __name__ == "__main__":
    main()
