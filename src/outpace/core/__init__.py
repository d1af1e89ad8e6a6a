"""The vocabulary of the package: trees, sampling, contracts, registries, statistics. Imports numpy alone."""
