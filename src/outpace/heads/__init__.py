"""All that is known of trained heads: their files, their layers, and the ones that ship with the package."""
