"""Makes new voices for Kokoro: `uv run main.py --help`."""

from kvw.cli import main

if __name__ == "__main__":
    main()
