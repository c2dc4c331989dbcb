"""The mathematics of METHOD 2 and 3 as pure functions: no process group, no files, state in and out."""
