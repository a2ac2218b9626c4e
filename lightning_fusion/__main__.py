"""``python -m lightning_fusion`` is the same program as ``lightning-fusion``."""

from lightning_fusion.cli.main import main

if __name__ == "__main__":
    main()
