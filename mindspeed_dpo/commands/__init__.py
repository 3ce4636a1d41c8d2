"""The command lines: `mindspeed-dpo train | preprocess | convert | plan | doctor`, and the scripts of the repository.

What a command does is left to the packages below; here are its options, its messages and its exit code.
"""
