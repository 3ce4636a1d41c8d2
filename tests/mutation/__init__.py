"""Mutation tests: does a test notice when the code is broken?

    make mutate                                  # all mutations, one after the other
    make mutate ARGS="--only clip --only warmup" # those with this in their name, topic or file
    make mutate ARGS="--jobs 4"                  # four at a time
    make mutate ARGS="--list"                    # what there is

Each mutation of `mutations/*.yaml` names a file of mindspeed_dpo, the code it replaces, the replacement, what that
breaks, and the tests that have to notice. The runner copies the checkout into a temporary folder, sees that the named
tests pass there, and then applies one mutation after the other to the copy and runs its tests. The checkout itself is
never written to. A mutation that no test notices is a missing test: write the test, do not remove the mutation.

It takes a quarter of an hour or more and is not part of CI. There, `tests/unit/test_mutations.py` sees that each
mutation still fits the code and that its tests exist.
"""
