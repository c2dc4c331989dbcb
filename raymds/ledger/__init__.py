"""The record of cycles: entries in a chain, signatures, what is protected, how far a test split is worn."""
