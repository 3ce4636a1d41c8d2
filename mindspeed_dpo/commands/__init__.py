"""The command lines of `mindspeed-dpo`: train, preprocess, convert, plan, report and doctor; and of the scripts.

What a command does is left to the packages below; here are its options, its messages and its exit code.
"""
