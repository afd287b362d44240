"""`python -m detector COMMAND`: lists the commands, and runs one."""

from detector.cli import main

main()
