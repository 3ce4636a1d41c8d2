"""What is tried in a process of its own: each module is started with a question in JSON and prints its answer.

A library that hangs, crashes or changes the process for good then cannot take the doctor along.
"""
