"""`python -m bench` is `unet-bench`."""

from bench.cli import main

if __name__ == "__main__":
    main()
