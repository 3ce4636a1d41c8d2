"""`python -m mindspeed_dpo COMMAND …`: the program `mindspeed-dpo` where it is not on the path."""

import sys

from mindspeed_dpo.commands.entry import main

if __name__ == "__main__":
    sys.exit(main())
