"""`python -m flowmason.cli`: the command line where `fm` is not on the PATH."""

from flowmason.cli import main

if __name__ == "__main__":
    main()
