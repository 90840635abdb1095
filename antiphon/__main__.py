"""`python -m antiphon`: the command without its script, for processes that one interpreter starts of itself."""

from antiphon.main import main

main()
