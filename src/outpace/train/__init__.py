"""Making drafters: the text they are counted or trained on, and the training itself."""
