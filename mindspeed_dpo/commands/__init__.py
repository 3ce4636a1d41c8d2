"""The command lines: `mindspeed-dpo` with train, plan, preprocess, convert, migrate, report, doctor; and the scripts.

What a command does is left to the packages below; here are its options, its messages and its exit code.
"""
