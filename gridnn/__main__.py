"""``python -m gridnn`` is the command ``gridnn``."""

from gridnn.cli.main import main

if __name__ == "__main__":
    main()
