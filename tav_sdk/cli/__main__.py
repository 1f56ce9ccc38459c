"""``python -m tav_sdk.cli``."""

from tav_sdk.cli import main

main()
