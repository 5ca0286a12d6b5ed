"""`python -m looc_codec` is the command `looc`."""

from looc_codec.cli import main

if __name__ == "__main__":
    main()
