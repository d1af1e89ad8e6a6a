"""`outpace serve`: an OpenAI-compatible server; every answer has the tokens of plain decoding."""
