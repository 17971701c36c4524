"""Reaches the player from Python: devices, programs, ExecuTorch registration. Importing it loads nothing."""
