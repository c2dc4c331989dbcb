"""The mathematics of METHOD 2, 3 and 6 as pure functions: no process group, no files, state in and out."""
