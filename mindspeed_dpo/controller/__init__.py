"""Processes on a Ray cluster: pools of devices, worker groups on them, verbs sent to every rank. Ray lives here."""
