"""What calls cost, what drafts cost, what survives of them, and how much to draft: one mechanism."""
