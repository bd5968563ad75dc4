"""`python -m archsim` is the command `archsim`."""

from archsim.cli.main import main

main()
