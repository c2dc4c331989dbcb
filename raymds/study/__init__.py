"""Methods compared: cycles over targets, seeds and data sets, their table and plots."""
