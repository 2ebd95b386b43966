"""Turns a raw ImageNet tree into a plan, and the plan into verified shards."""
