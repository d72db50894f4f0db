"""``python -m tonnage``."""

from tonnage.cli import run

if __name__ == "__main__":
    run()
