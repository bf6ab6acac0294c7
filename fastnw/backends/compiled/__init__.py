"""The compiled tiles, one module for each instruction set."""
